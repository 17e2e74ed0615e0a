"""Sampling and statistics, with a clock that the work itself moves."""

import pytest

from evonorm_jax.benchmarks import timing


class FakeClock:
    """Stands still but for the work that is done; remembers who did it."""

    def __init__(self):
        self.now, self.log = 100.0, []

    def __call__(self):
        return self.now

    def work(self, name, *durations):
        """A call that takes the given seconds, one after the other, and again from the first."""
        calls = 0

        def call():
            nonlocal calls
            self.now += durations[calls % len(durations)]
            calls += 1
            self.log.append(name)

        return call


def test_every_round_samples_everyone_and_turns_the_order():
    clock = FakeClock()
    samplers = {
        name: timing.blocking(clock.work(name, 1.0), calls=1, warmup=0, clock=clock)
        for name in "abc"
    }
    timing.interleave(samplers, rounds=3)
    assert "".join(clock.log) == "abc" + "cba" + "abc"


def test_samples_are_in_the_order_of_the_rounds():
    clock = FakeClock()
    samplers = {
        "a": timing.blocking(clock.work("a", 1.0, 2.0, 3.0), calls=1, warmup=0, clock=clock),
        "b": timing.blocking(clock.work("b", 10.0, 20.0, 30.0), calls=1, warmup=0, clock=clock),
    }
    assert timing.interleave(samplers, rounds=3) == {"a": (1.0, 2.0, 3.0), "b": (10.0, 20.0, 30.0)}


def test_a_blocking_sample_is_the_median_call_without_the_warm_up():
    clock = FakeClock()
    call = clock.work("a", 50.0, 1.0, 9.0, 2.0)
    assert timing.blocking(call, calls=3, warmup=1, clock=clock)() == 2.0
    assert len(clock.log) == 4


def test_a_queued_sample_is_the_mean_call_without_the_warm_up():
    clock = FakeClock()
    call = clock.work("a", 50.0, 1.0, 9.0, 2.0)
    assert timing.queued(call, calls=3, warmup=1, clock=clock)() == 4.0


def test_ratios_are_taken_within_the_rounds():
    # A machine that becomes ten times slower: the times spread, the ratio does not.
    slow_down = (1.0, 2.0, 5.0, 10.0)
    ours, theirs = [2.0 * s for s in slow_down], [4.0 * s for s in slow_down]
    assert timing.same_round_ratios(ours, theirs) == (0.5, 0.5, 0.5)
    assert timing.spread(ours).high > 2 * timing.spread(ours).low


def test_ratios_need_the_same_rounds():
    with pytest.raises(ValueError, match="zip"):
        timing.same_round_ratios([1.0, 2.0], [1.0])


def test_the_spread_is_the_median_and_the_quartiles():
    assert timing.spread([5.0, 1.0, 3.0, 2.0, 4.0]) == (3.0, 2.0, 4.0)
    assert timing.spread([7.0]) == (7.0, 7.0, 7.0)


def test_the_geometric_mean_of_ratios_and_their_inverses_is_one():
    assert timing.geometric_mean([0.25, 4.0, 3.0, 1 / 3]) == pytest.approx(1.0)
