"""How a launcher ends: one line for whatever went wrong, and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from evonorm_jax.errors import UserError
from evonorm_jax.provenance import command, now
from evonorm_jax.run_files import CONFIG_FILE, SWEEP_FILE
from experiments import startup

TRACEBACK_FILE = "traceback.txt"

# One of these is in every folder that a launcher has begun to write.
_OUR_FILES = (CONFIG_FILE, SWEEP_FILE, "ledger.sqlite")

_UNWRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
)

# No file can be called so: a name is too long, or links lead in a circle.
_UNNAMEABLE = (errno.ENAMETOOLONG, errno.ELOOP)

_folder: Path | None = None  # where the traceback of this process goes


def run_main(main: Callable[[], None], *, outlive_stdout: bool = False) -> None:
    """Runs a launcher, and ends the process with one line and an exit code where it fails.

    A `UserError`, or a file or folder that cannot be written or called so, is 2. Anything
    unforeseen is 1; its traceback goes to a file, or with `--debug` to stderr. Ctrl-C is 130.
    Output that nobody reads any more ends it in silence with 1.

    Args:
      main: The launcher.
      outlive_stdout: Whether it goes on without that output instead, because its results are files.
    """
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    startup.raise_at_interrupt()
    if hasattr(sys.stdout, "reconfigure"):  # names of files may be no text at all
        sys.stdout.reconfigure(errors="backslashreplace")
    if outlive_stdout:
        sys.stdout = OutlivingStream(sys.stdout)  # type: ignore[assignment]
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a further one must find no Python to trace
        _fail("stopped by Ctrl-C.", startup.INTERRUPTED)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and not outlive_stdout:
            silence(sys.stdout)  # as of `--print | head`: whoever reads has seen enough
            sys.exit(1)
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            name = f"{error.filename}: " if error.filename else ""
            _fail(f"{name}{error.strerror}. Make room, or name a place that can be written.", 2)
        if isinstance(error, OSError) and error.errno in _UNNAMEABLE:
            name = f"{error.filename}: " if error.filename else ""
            _fail(f"{name}{error.strerror}. Name another file or folder.", 2)
        if debug:
            raise
        _fail(_unforeseen(error), 1)


def keep_traceback_in(folder: Path) -> None:
    """Names the folder of this launcher: a traceback goes there, once the folder is in use."""
    global _folder
    _folder = folder


class OutlivingStream:
    """A stream that falls silent when it cannot be written any more: `train | head` trains on.

    Args:
      stream: What is written to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text, if it can be written."""
        try:
            return self._stream.write(text)
        except OSError:
            silence(self._stream)
            return len(text)

    def flush(self) -> None:
        """Writes what is waiting, if it can be written."""
        try:
            self._stream.flush()
        except OSError:
            silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def silence(stream: TextIO) -> None:
    """Lets everything that is written to a stream go nowhere, what waits for the exit as well."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _fail(message: str, code: int) -> None:
    text = f"{Path(sys.argv[0]).stem}: {message}".encode(errors="backslashreplace").decode()
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
    sys.exit(code)


def _unforeseen(error: Exception) -> str:
    """Describes an exception in one line, and writes its traceback to a file."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    what = f"{type(error).__name__}: {said[:300]}".removesuffix(": ")
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        what = f"There is too little memory for this: use smaller batches. {what}"
    text = f"{now()}  {shlex.join(command())}\n{''.join(traceback.format_exception(error))}\n"
    place = _write_traceback(text)
    where = f"the traceback is in {place}, and --debug prints it" if place else "--debug says where"
    return f"{what} ({where})"


def _write_traceback(text: str) -> str | None:
    """Writes a traceback to the folder of the launcher, or to one for temporary files."""
    content = text.encode(errors="backslashreplace")
    with contextlib.suppress(OSError):
        if _folder is not None and any((_folder / name).exists() for name in _OUR_FILES):
            with (_folder / TRACEBACK_FILE).open("ab") as stream:
                stream.write(content)
            return stream.name
    with contextlib.suppress(OSError):
        descriptor, path = tempfile.mkstemp(prefix="evonorm_jax_", suffix=".txt")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        return path
    return None
