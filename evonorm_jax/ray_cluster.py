"""Joining a Ray cluster: for the workers of a search and for the runs of a sweep.

The process that joins is the driver. It sends the package's code to the nodes; the other packages,
and what else a worker needs, must be there.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import evonorm_jax
from evonorm_jax.errors import UserError

_MISSING = (
    "--ray needs Ray, which is not installed: pip install ray (the same version as the cluster's), "
    "or leave --ray out to stay on this machine."
)
_CONNECT_SECONDS = 10.0
_LOCAL = "local"

# A cluster of this machine alone is nobody else's. Ray has an answer to nobody without the token,
# which it makes itself. It listens on the loopback device, too, if it is told that it is to have no
# other nodes; the variable is named after the systems on which that is the default.
_LOCAL_ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def connect(address: str) -> ModuleType:
    """Joins a cluster; the handlers of signals stay as they were.

    Args:
      address: "auto" on one of the cluster's nodes, "ray://HOST:10001" from elsewhere, or "local"
        for a cluster of this machine alone, which ends with this process.

    Returns:
      The module `ray`; its `shutdown` leaves the cluster.

    Raises:
      UserError: Ray is not installed, or no cluster is at the address.
    """
    is_local = address == _LOCAL
    if is_local:  # before the import, which reads them
        for name, value in _LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise UserError(_MISSING) from error
    package = Path(evonorm_jax.__file__).parent
    try:
        _check_reachable(address)
        with _own_signals():
            ray.init(
                address=address,
                **({"_node_ip_address": "127.0.0.1"} if is_local else {}),
                # The nodes run the code that this process runs; the packages it needs are theirs.
                runtime_env={"py_modules": [str(package)]},
                include_dashboard=False if is_local else None,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
    except Exception as error:  # a node that does not start in time is a bare one
        raise UserError(_explain(address, error)) from error
    return ray


def _explain(address: str, error: Exception) -> str:
    if address == _LOCAL:
        return f"--ray=local: Ray does not start on this machine ({error})."
    return (
        f"--ray={address}: there is no Ray cluster, or it does not take this driver ({error}). "
        "Start one with 'ray start --head', or take 'local' for this machine alone; on a node "
        "of a cluster that asks for a token take 'auto', elsewhere set RAY_AUTH_MODE=token."
    )


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps the handlers of signals that were there before a `with` block.

    Ray sets its own for SIGTERM, under which a driver would end without a word.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    except SystemExit as error:  # by that handler: nothing has begun
        raise SystemExit(128 + signal.SIGTERM) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _check_reachable(address: str) -> None:
    """Raises OSError if nothing answers at HOST:PORT; Ray itself goes on trying for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
