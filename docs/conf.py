"""How Sphinx builds the site: the pages of docs/ and the API reference. See `make docs`."""

import collections
import dataclasses
import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the package of this clone, installed or not

from flax import linen as nn  # noqa: E402

from evonorm_jax import __version__  # noqa: E402

project = "evonorm_jax"
author = "The evonorm_jax authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

# Docstrings are in Google's style, with code in single backticks.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are described where the class is
napoleon_attr_annotations = False  # the signature has them
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 90  # characters

# Headings are link targets, as on GitHub: architecture.md#contracts.
myst_heading_anchors = 3

html_theme = "alabaster"
html_title = f"evonorm_jax {release}"
html_theme_options = {"page_width": "1100px", "sidebar_width": "240px"}

_FIELD_OF_A_NAMED_TUPLE = type(collections.namedtuple("Pair", "left right").left)


def skip_defaults(app, what, name, member, skip, options):
    """Leaves out fields that have no docstring of their own, but one of their default or type."""
    del app, what, name, options
    of_jax = (getattr(member, "__module__", None) or "").partition(".")[0] in ("jax", "flax")
    return skip or of_jax or isinstance(member, _FIELD_OF_A_NAMED_TUPLE)


def name_fields(app, what, name, member, options, signature, return_annotation):
    """Gives Flax modules a signature of fields and defaults; their types are internals of JAX."""
    del app, what, name, options
    if not (inspect.isclass(member) and issubclass(member, nn.Module)):
        return signature, return_annotation
    fields = []
    for field in dataclasses.fields(member):
        default = field.default
        if field.name in ("parent", "name"):  # every module of Flax has these
            continue
        if default is dataclasses.MISSING:
            fields.append(field.name)
        else:
            fields.append(f"{field.name}={getattr(default, '__name__', repr(default))}")
    return f"({', '.join(fields)})", None


def name_files_outside(app, docname, source):
    """Turns links to files outside docs/, which the site does not hold, into their paths."""
    del app
    if "/" not in docname:
        source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", source[0])


def setup(app):
    """Registers the functions above with Sphinx."""
    app.connect("source-read", name_files_outside)
    app.connect("autodoc-skip-member", skip_defaults)
    app.connect("autodoc-process-signature", name_fields)
