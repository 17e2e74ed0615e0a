"""The lock of a run directory: one process at a time writes there.

The kernel holds it (`flock`), over NFS that of the server. It is gone with the process that took
it, however that ended, so a lock is never stale. A sweep takes the lock of a run before it starts
the run and hands it on, so it stays held as long as either of the two lives. The file `.lock` says
who took it last.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from evonorm_jax.errors import UserError
from evonorm_jax.provenance import now

if sys.platform != "win32":
    import fcntl

LOCK_FILE = ".lock"
_INHERITED = "EVONORM_JAX_RUN_LOCK"  # the descriptor that a sweep hands on
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def try_lock(folder: Path) -> int | None:
    """Takes the lock of a run directory, which is created.

    Returns:
      A file descriptor, or None where somebody else has the lock. Closing the descriptor gives the
      lock back, unless a child has inherited it.

    Raises:
      UserError: The folder cannot be written, or its file system has no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(folder / LOCK_FILE, flags, 0o666)
    except OSError as error:
        raise UserError(
            f"The run directory {folder} cannot be written ({error.strerror or error}). Choose "
            "another with --workdir."
        ) from error
    if sys.platform == "win32":  # which has other locks; the run goes on without
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in _HELD:
            return None
        raise UserError(
            f"{folder} cannot be locked ({error.strerror or error}), so a second start there would "
            "go unnoticed and both would spoil the run. Mount its file system with locks (Lustre: "
            "-o flock; NFS: version 4), or choose a --workdir on another one."
        ) from error
    _sign(descriptor)
    return descriptor


def owner(folder: Path) -> str:
    """Says who has the lock, such as `process 4711 on node3, since 2026-01-02T03:04:05+00:00`."""
    try:
        content = json.loads((folder / LOCK_FILE).read_text(encoding="utf-8"))
        return f"process {content['pid']} on {content['host']}, since {content['since']}"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "another process"


def handed_on(descriptor: int) -> dict[str, str]:
    """The environment of a child that inherits the lock; its `lock_run` finds it there."""
    return {_INHERITED: str(descriptor)}


@contextlib.contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Holds the lock of a run directory, which is created.

    Raises:
      UserError: Another process has it; the message names its host and its number.
    """
    inherited = _inherited_lock(folder)
    if inherited is not None:
        _sign(inherited)
        yield
        return
    descriptor = try_lock(folder)
    if descriptor is None:
        raise UserError(
            f"{folder} is in use: {owner(folder)}, is training there. Wait for it or stop it, or "
            "choose another --workdir."
        )
    try:
        yield
    finally:
        os.close(descriptor)


def _inherited_lock(folder: Path) -> int | None:
    """The descriptor that a sweep has handed on, if it is of this folder."""
    try:
        descriptor = int(os.environ[_INHERITED])
        ours, theirs = os.stat(folder / LOCK_FILE), os.fstat(descriptor)
    except (KeyError, ValueError, OSError):
        return None
    if not os.path.samestat(ours, theirs):
        return None
    os.set_inheritable(descriptor, False)  # what this run starts must not keep it
    return descriptor


def _sign(descriptor: int) -> None:
    content = {"host": socket.gethostname(), "pid": os.getpid(), "since": now()}
    with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(content).encode())
