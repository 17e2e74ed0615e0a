"""Requests to stop: SIGTERM from a scheduler, Ctrl-C from a person."""

from __future__ import annotations

import signal
import threading
import types

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Notes a request to stop, so that the loop can save and leave between two steps.

    One process listens itself to SIGTERM, to SIGINT (a second one stops at once) and to SIGHUP,
    which a closed terminal sends; not to what is ignored, as SIGHUP is under nohup. With several,
    the signal may reach only one, so JAX's preemption service, which listens to SIGTERM, agrees on
    a step at which all of them stop; SIGHUP is passed on to it.

    >>> with Preemption() as preemption:
    ...     preemption.requested(step=1)
    False
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is not threading.main_thread():
            return self
        hangup = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []
        if jax.process_count() == 1:
            handlers = dict.fromkeys((signal.SIGTERM, signal.SIGINT, *hangup), self._handle)
        else:
            handlers = dict.fromkeys(hangup, lambda *_: signal.raise_signal(signal.SIGTERM))
        for number, handler in handlers.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    @property
    def name(self) -> str:
        """Name of the signal that asked for the stop."""
        return "preemption" if self._signal is None else signal.Signals(self._signal).name

    def requested(self, step: int) -> bool:
        """Whether to stop after `step` updates; every process gets the same answer."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._signal is not None
