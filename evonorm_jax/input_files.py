"""Files that were made elsewhere: what is looked at before one of them is opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from evonorm_jax.errors import UserError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def check_regular(path: str | Path) -> int:
    """Refuses what is no regular file, or a link to one, without opening it.

    Opening a named pipe waits for a writer, and `/dev/zero` never ends.

    Returns:
      The size of the file in bytes.

    Raises:
      UserError: There is no such file, it cannot be reached, or it is something else.
    """
    name = printable(path)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        broken = os.path.islink(path)
        what = f"'{name}' is a link to nothing" if broken else f"There is no file '{name}'"
        raise UserError(f"{what}: name a file that is there.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"'{name}' cannot be opened ({reason(error)}).") from error
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        link = f"a link to {printable(os.path.realpath(path))}, " if os.path.islink(path) else ""
        raise UserError(
            f"'{name}' is {link}{kind}, but must be a regular file: replace or remove it."
        )
    return status.st_size


def printable(path: str | Path) -> str:
    r"""Returns a path as text that every terminal and every file takes.

    Linux allows any bytes in names; Python holds those that are no UTF-8 as lone surrogates.

    >>> printable(os.fsdecode(b"caf\xe9.jpg"))
    'caf\\xe9.jpg'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def some(names: Iterable[str]) -> str:
    """Lists the first eight of the names, and how many more there are.

    >>> some("abcdefghij")
    'a, b, c, d, e, f, g, h and 2 more'
    """
    names = [printable(name) for name in names]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def reason(error: Exception) -> str:
    """Returns what a system error says, without its number and path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
