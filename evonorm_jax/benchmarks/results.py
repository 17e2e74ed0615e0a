"""What a suite found: contenders in cases, and which of them are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from evonorm_jax.benchmarks.timing import Spread, same_round_ratios


@dataclasses.dataclass(frozen=True)
class Result:
    """One contender in one case.

    Attributes:
      group: Name of the cases that belong in one table, such as "float32".
      case: Name of what the contenders were given, such as a shape.
      contender: Name of what was measured.
      seconds: Seconds, one sample for each round; () where nothing was measured.
      figures: Further numbers by name, with the unit in the name.
      note: Reason that nothing was measured, such as "torch is not installed".
    """

    group: str
    case: str
    contender: str
    seconds: tuple[float, ...] = ()
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """A suite's results.

    Attributes:
      suite: Name of the suite.
      title: Title in one line.
      notes: Sentences on how to read the report.
      results: All results; those with the same group and case were sampled in the same rounds.
      comparisons: Pairs (contender, rival), for which the same-round ratios are shown.
      headline: Name of the figure that bars and ratios show; None means the times.
      quick_notice: Sentences that a reader of a quick run must know.
      failure: The error that the command ends with once the report is written; "" for none.
    """

    suite: str
    title: str
    notes: tuple[str, ...]
    results: tuple[Result, ...]
    comparisons: tuple[tuple[str, str], ...]
    headline: str | None = None
    quick_notice: str = "A quick run: tiny shapes, two rounds. It shows that the suite runs."
    failure: str = ""

    def groups(self) -> tuple[str, ...]:
        """Returns the groups in order of appearance."""
        return unique(result.group for result in self.results)

    def cases(self, group: str) -> tuple[str, ...]:
        """Returns the cases of one group, in order of appearance."""
        return unique(result.case for result in self.results if result.group == group)

    def find(self, group: str, case: str, contender: str) -> Result | None:
        """Returns the result of a contender, or None where it took no part."""
        for result in self.results:
            if (result.group, result.case, result.contender) == (group, case, contender):
                return result
        return None

    def ratio(self, group: str, case: str, contender: str, rival: str) -> Spread | None:
        """Returns the same-round ratios of two contenders; None unless both were measured."""
        found = (self.find(group, case, name) for name in (contender, rival))
        ours, theirs = (() if result is None else self.samples(result) for result in found)
        return same_round_ratios(ours, theirs) if ours and theirs else None

    def samples(self, result: Result) -> tuple[float, ...]:
        """Returns what bars and ratios show of a result: its times, or its headline figure."""
        if self.headline is None:
            return result.seconds
        return (result.figures[self.headline],) if self.headline in result.figures else ()

    def contenders(self, group: str) -> tuple[str, ...]:
        """Returns the contenders of all cases of one group, in order of appearance."""
        return unique(result.contender for result in self.results if result.group == group)

    def figures(self, group: str) -> tuple[str, ...]:
        """Returns the names of the further figures in one group, in order of appearance."""
        return unique(
            name for result in self.results if result.group == group for name in result.figures
        )


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names without repetitions, in order of appearance."""
    return tuple(dict.fromkeys(names))


def time_unit(seconds: Sequence[float]) -> tuple[float, str]:
    """Returns the factor from seconds to a unit that suits the largest value, and that unit."""
    largest = max(seconds, default=0.0)
    if largest >= 1:
        return 1.0, "s"
    return (1e3, "ms") if largest >= 1e-3 else (1e6, "us")


def number(value: float) -> str:
    """Writes a number with three digits, or all before the point: 0.0123, 1.23, 123, 12,345."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
