"""Puts batches on the devices ahead of time."""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from evonorm_jax.errors import UserError

T = TypeVar("T")

CLOSE_TIMEOUT = 5.0  # seconds; making and placing one batch takes far less


class DevicePrefetcher(Iterator[T]):
    """Iterates over `put(item)`, computed by a background thread up to `size` items ahead.

    An exception of the iterator or of `put` reaches the consumer as itself, after the items before
    it. Close it (or use it as a context manager) to stop the thread and to close the iterator.
    """

    def __init__(self, iterator: Iterator[Any], put: Callable[[Any], T], size: int) -> None:
        if size < 1:
            raise UserError(f"The number of batches to prefetch must be 1 or more, not {size}.")
        self._iterator = iterator
        self._put = put
        self._size = size
        self._ready: collections.deque[T] = collections.deque()
        self._error: BaseException | None = None
        self._finished = False  # the thread will add nothing more
        self._closed = False  # the consumer wants nothing more
        self._changed = threading.Condition()
        # A daemon: an input that hangs must not keep a failed run from ending.
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._finished or self._closed)
            if self._closed:
                raise StopIteration
            if self._ready:
                self._changed.notify_all()
                return self._ready.popleft()
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        """Stops the thread and drops what it holds; may be called twice.

        Waits for the thread, but for `CLOSE_TIMEOUT` seconds at most.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSE_TIMEOUT)
        if self._thread.is_alive():
            logging.warning(
                "The input has given no batch for %g s since it was closed: leaving it behind.",
                CLOSE_TIMEOUT,
            )
        self._ready.clear()

    def __enter__(self) -> DevicePrefetcher[T]:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _fill(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._iterator:
                placed = self._put(item)
                with self._changed:
                    self._changed.wait_for(lambda: len(self._ready) < self._size or self._closed)
                    if self._closed:
                        break
                    self._ready.append(placed)
                    self._changed.notify_all()
                # Hold no batch while the next one is made: it may be a large part of the memory.
                del item, placed
        except BaseException as caught:
            error = caught
        finally:
            # In this thread: a generator that is running here could not be closed from another.
            if callable(close := getattr(self._iterator, "close", None)):
                close()
            with self._changed:
                self._error, self._finished = error, True
                self._changed.notify_all()


def prefetch_to_devices(
    iterator: Iterator[Any], put: Callable[[Any], T], size: int = 2
) -> DevicePrefetcher[T]:
    """Pulls from `iterator` and calls `put` in a background thread, `size` batches ahead.

    >>> with prefetch_to_devices(iter(range(3)), lambda item: item * 10) as batches:
    ...     list(batches)
    [0, 10, 20]

    Args:
      iterator: Gives host batches; the thread alone uses it from now on.
      put: Places a host batch on the devices.
      size: Items that wait at most; two keep the device busy while one is being copied.

    Raises:
      UserError: The size is below 1.
    """
    return DevicePrefetcher(iterator, put, size)
