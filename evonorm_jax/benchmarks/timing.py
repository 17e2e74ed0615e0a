"""Interleaved timing: every contender in every round, in an order that is reversed each time.

On a machine that is shared, or whose clock rate moves, two measurements made one after the other
differ by more than many rivals do: the median of one program moved from 14.3 to 18.8 ms within two
minutes on two shared cores. The ratio of neighbours in one round hardly changes, so ratios are
compared, and never times of different runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

#: Returns seconds, any origin.
Clock = Callable[[], float]
#: Measures its contender once more and returns seconds.
Sampler = Callable[[], float]


class Spread(NamedTuple):
    """The median of samples and their quartiles."""

    median: float
    low: float
    high: float


def blocking(
    call: Callable[[], Any], *, calls: int, warmup: int = 1, clock: Clock = time.perf_counter
) -> Sampler:
    """Returns a sampler of the median seconds of `calls` calls, each of which is waited for.

    Args:
      call: Does the work; JAX arrays that it returns are waited for.
      calls: Number of calls that are timed.
      warmup: Number of calls before them that are not timed. The first call after another
        contender finds that one's data in the caches and its threads still spinning.
      clock: Clock of the measurement, in seconds.
    """

    def sample() -> float:
        for _ in range(warmup):
            jax.block_until_ready(call())
        seconds = []
        for _ in range(calls):
            start = clock()
            jax.block_until_ready(call())
            seconds.append(clock() - start)
        return statistics.median(seconds)

    return sample


def queued(
    call: Callable[[], Any], *, calls: int, warmup: int = 1, clock: Clock = time.perf_counter
) -> Sampler:
    """Returns a sampler of the seconds per call of `calls` calls that are waited for together.

    It is for accelerators, where starting a program (tens of microseconds) may take longer than a
    layer runs. The next call starts while the device works.
    """

    def sample() -> float:
        for _ in range(warmup):
            jax.block_until_ready(call())
        start = clock()
        for _ in range(calls):
            result = call()
        jax.block_until_ready(result)
        return (clock() - start) / calls

    return sample


def interleave(samplers: Mapping[str, Sampler], *, rounds: int) -> dict[str, tuple[float, ...]]:
    """Samples every contender once a round: A B C, C B A, A B C, ...

    >>> interleave({"a": lambda: 1.0, "b": lambda: 2.0}, rounds=3)
    {'a': (1.0, 1.0, 1.0), 'b': (2.0, 2.0, 2.0)}

    Args:
      samplers: Samplers by contender.
      rounds: Number of rounds, which is that of the samples of each contender.

    Returns:
      Seconds by contender; entry i of each comes from round i.
    """
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    names = list(samplers)
    for index in range(rounds):
        order = names if index % 2 == 0 else names[::-1]
        for name in order:
            seconds[name].append(samplers[name]())
    return {name: tuple(values) for name, values in seconds.items()}


def spread(values: Sequence[float]) -> Spread:
    """Returns the median and the quartiles of the values.

    >>> spread([1.0, 2.0, 3.0, 4.0, 9.0])
    Spread(median=3.0, low=2.0, high=4.0)
    """
    low, median, high = np.percentile(np.asarray(values, np.float64), (25, 50, 75))
    return Spread(float(median), float(low), float(high))


def same_round_ratios(seconds: Sequence[float], rival: Sequence[float]) -> Spread:
    """Returns median and quartiles of the ratios of each round; below 1, the rival is slower.

    >>> same_round_ratios([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    Spread(median=0.5, low=0.5, high=0.5)
    """
    return spread([a / b for a, b in zip(seconds, rival, strict=True)])


def geometric_mean(ratios: Sequence[float]) -> float:
    """Returns the geometric mean; that of a ratio and its inverse is 1.

    >>> geometric_mean([0.5, 2.0])
    1.0
    """
    return float(np.exp(np.mean(np.log(np.asarray(ratios, np.float64)))))
