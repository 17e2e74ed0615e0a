import itertools
import threading

import pytest

from evonorm_jax.data import device_batches, prefetch_to_devices
from evonorm_jax.errors import UserError


class Source:
    """Counts up, remembers how far, and can fail."""

    def __init__(self, fail_at=None, end_at=None):
        self.given, self.closed, self.fail_at, self.end_at = 0, False, fail_at, end_at

    def __iter__(self):
        return self

    def __next__(self):
        if self.given == self.end_at:
            raise StopIteration
        if self.given == self.fail_at:
            raise KeyError("broken input")
        self.given += 1
        return self.given - 1

    def close(self):
        self.closed = True


def test_items_come_in_order_and_the_thread_ends():
    source = Source(end_at=20)
    with prefetch_to_devices(source, lambda item: item * 10) as batches:
        assert list(batches) == [item * 10 for item in range(20)]
        assert list(batches) == []
    assert source.closed


@pytest.mark.parametrize("size", [1, 2, 5])
def test_it_works_ahead_by_size_items(size):
    source, reached = Source(), threading.Event()

    def put(item):
        if item == size:
            reached.set()
        return item

    with prefetch_to_devices(source, put, size) as batches:
        assert reached.wait(10)  # `size` items wait, one more is in the thread's hand
        assert next(batches) == 0
        assert source.given <= size + 2
    assert source.given <= size + 2


def test_an_exception_of_the_input_reaches_the_consumer_after_the_items_before_it():
    batches = prefetch_to_devices(Source(fail_at=3), lambda item: item)
    assert list(itertools.islice(batches, 3)) == [0, 1, 2]
    with pytest.raises(KeyError, match="broken input"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)
    batches.close()


def test_an_exception_of_put_reaches_the_consumer():
    def put(item):
        raise MemoryError("device is full")

    with (
        prefetch_to_devices(Source(), put) as batches,
        pytest.raises(MemoryError, match="device is full"),
    ):
        next(batches)


def test_close_stops_the_thread_and_closes_the_input():
    before = threading.active_count()
    source = Source()
    batches = prefetch_to_devices(source, lambda item: item)
    assert next(batches) == 0
    batches.close()
    batches.close()
    assert source.closed
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(batches)


def test_a_consumer_that_fails_stops_the_thread():
    before = threading.active_count()

    def consume():
        with prefetch_to_devices(Source(), lambda item: item) as batches:
            for item in batches:
                if item == 3:
                    raise RuntimeError("training failed")

    with pytest.raises(RuntimeError, match="training failed"):
        consume()
    assert threading.active_count() == before


def test_a_generator_is_closed_in_its_thread():
    closed_by = []

    def generator():
        try:
            yield from itertools.count()
        finally:
            closed_by.append(threading.current_thread().name)

    with prefetch_to_devices(generator(), lambda item: item) as batches:
        next(batches)
    assert closed_by == ["prefetch"]


def test_an_input_that_hangs_does_not_hold_up_a_failed_run(monkeypatch, caplog):
    monkeypatch.setattr(device_batches, "CLOSE_TIMEOUT", 0.05)
    release, ended = threading.Event(), threading.Event()

    def generator():
        try:
            yield 0
            release.wait(60)
            yield 1
        finally:
            ended.set()

    def consume():
        with prefetch_to_devices(generator(), lambda item: item) as batches:
            next(batches)
            raise RuntimeError("training failed")

    with pytest.raises(RuntimeError, match="training failed"):
        consume()
    assert not ended.is_set()  # the thread still hangs, and was left behind
    assert "leaving it behind" in caplog.text
    release.set()
    assert ended.wait(10)  # what hung does end in the end: its thread stops by itself


def test_size_must_be_positive():
    with pytest.raises(UserError, match="1 or more, not 0"):
        prefetch_to_devices(Source(), lambda item: item, 0)
