"""Code of a user's own, which a config names as `package.module:Name`."""

from __future__ import annotations

import importlib
from typing import Any


def import_named(name: str) -> Any:
    """Imports what a name such as `package.module:Name` stands for.

    >>> import_named("json:dumps")([1])
    '[1]'

    Raises:
      ValueError: The name has another form.
      ImportError: There is no such module, or it cannot be imported.
      AttributeError: The module has no such attribute.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{name!r} is not of the form 'package.module:Name'")
    return getattr(importlib.import_module(module), attribute)
