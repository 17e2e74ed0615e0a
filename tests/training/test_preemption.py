"""Signals between two steps; without training."""

import signal

import pytest

from evonorm_jax.training.preemption import Preemption

pytestmark = pytest.mark.hostile


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """Tests may run under nohup or in the background of a shell, where signals are ignored."""
    numbers = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_asks_to_stop(number):
    with Preemption() as preemption:
        assert not preemption.requested(step=1)
        signal.raise_signal(number)
        assert preemption.requested(step=2)
        assert preemption.name == signal.Signals(number).name
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_second_interrupt_stops_at_once():
    with Preemption():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_hangup_or_term_changes_nothing():
    with Preemption() as preemption:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        assert preemption.requested(step=1)


def test_what_is_ignored_stays_so():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with Preemption() as preemption:
        signal.raise_signal(signal.SIGHUP)
        assert not preemption.requested(step=1)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
