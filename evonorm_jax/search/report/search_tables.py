"""Searches as tables in Markdown: how many candidates ended where, and the best layers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from evonorm_jax.analysis.sweep_tables import markdown_table
from evonorm_jax.graphs.canonical import canonical_hash
from evonorm_jax.graphs.formula import formula
from evonorm_jax.search.report.search_runs import (
    MEASURES,
    SearchRun,
    network_label,
    reason_label,
    total_fates,
)
from evonorm_jax.search.run.ledger_entries import LedgerEntry
from evonorm_jax.search.run.rerank import standings

NUM_WINNERS = 3


class Winner(NamedTuple):
    """One of the best layers.

    Attributes:
      search: The name of the search that found it.
      entry: The candidate in the ledger.
      scores: Its accuracy by network in percent.
      reranked: Whether it was scored at the larger budget.
    """

    search: str
    entry: LedgerEntry
    scores: Mapping[str, float]
    reranked: bool


def summarize(runs: Sequence[SearchRun]) -> str:
    """Writes the tables of searches, with their headings."""
    parts = ["# Layer search", _counts_table(runs)]
    if len(runs) > 1 and all(run.scored for run in runs):
        bests = _best_of_strategies(runs)
        parts += ["The best layer of each strategy:", _strategies_table(bests)]
        if differences := _difference_table(bests):
            parts.append(differences)
    parts.append(_fates_table(runs))
    if winners := find_winners(runs):
        networks = list(winners[0].scores)
        budget = "the larger budget" if winners[0].reranked else "the budget of the search"
        parts += [f"The best layers at {budget}:", _winners_table(winners, networks)]
    return "\n\n".join(parts) + "\n"


def _counts_table(runs: Sequence[SearchRun]) -> str:
    rows = []
    for run in runs:
        entries = run.contents.entries
        hours = sum(entries.seconds) / 3600
        best = max(map(entries.mean, run.scored), default=None)
        rows.append(
            (
                run.name,
                run.strategy,
                f"{run.contents.config['seed']}",
                f"{len(entries.ids):,}",
                f"{len(run.trained):,}",
                f"{len(run.scored):,}",
                f"{sum(entries.steps):,}",
                f"{hours:.2f}",
                "-" if best is None else f"{best:.2f}",
            )
        )
    header = ("search", "strategy", "seed", "candidates", "trained", "scored", "training steps")
    return _table((*header, "worker hours", "best mean (%)"), rows)


def _best_of_strategies(runs: Sequence[SearchRun]) -> dict[str, dict[str, np.ndarray]]:
    """Returns the best mean of each search of each strategy in percent, by what is compared.

    Searches are compared at what the cheapest one spent, by each measure. If all were ranked again,
    they are compared by that as well, whatever each had spent. The best is NaN where a search had
    scored nothing by then, and not finite where all failed that were ranked again.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    by_strategy = {
        strategy: [run for run in runs if run.strategy == strategy]
        for strategy in sorted({run.strategy for run in runs})
    }
    for measure, label in MEASURES.items():
        budget = min(run.best_so_far(measure)[0][-1] for run in runs)
        found[f"{budget:,} {label}"] = {
            strategy: np.array([run.best_by(measure, budget) for run in repetitions])
            for strategy, repetitions in by_strategy.items()
        }
    if all(run.contents.reranked for run in runs):
        found["the larger budget, ranked again"] = {
            strategy: np.array([standings(run.contents)[0].mean for run in repetitions])
            for strategy, repetitions in by_strategy.items()
        }
    return found


def _strategies_table(bests: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Writes the best of each strategy, at an equal cost and after ranking again."""
    rows = []
    for cost, strategies in bests.items():
        for strategy, best in strategies.items():
            found = best[np.isfinite(best)]
            each = [f"{mean:.2f}" for mean in sorted(found, reverse=True)]
            each += ["none"] * (len(best) - len(found))
            whole = len(found) == len(best)
            mean = f"{found.mean():.2f}" if whole else "-"
            spread = f"{found.std(ddof=1):.2f}" if whole and len(found) > 1 else "-"
            rows.append((cost, strategy, mean, spread, ", ".join(each)))
    header = ("compared at", "strategy", "best mean (%)", "standard deviation", "each")
    return _table(header, rows)


def _difference_table(bests: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Writes how much better the first of two strategies is than the second, with an interval.

    The table is empty unless there are two strategies, each with several searches that found a
    layer, and the searches of at least one differ.
    """
    rows = []
    for cost, strategies in bests.items():
        repeated = all(len(best) > 1 and np.isfinite(best).all() for best in strategies.values())
        differ = any(np.ptp(best) > 0 for best in strategies.values())
        if len(strategies) == 2 and repeated and differ:
            first, second = strategies.values()
            test = scipy.stats.ttest_ind(first, second, equal_var=False)
            low, high = test.confidence_interval(0.95)
            difference = f"{first.mean() - second.mean():.2f}"
            rows.append((cost, " less ".join(strategies), difference, f"{low:.2f} to {high:.2f}"))
    header = ("compared at", "strategies", "difference (points)", "95 % interval (Welch)")
    return _table(header, rows) if rows else ""


def _fates_table(runs: Sequence[SearchRun]) -> str:
    totals = total_fates(runs)
    reasons = sorted(
        set().union(*totals.values()),
        key=lambda reason: -sum(counts[reason] for counts in totals.values()),
    )
    rows = [
        (reason_label(reason), *(f"{counts[reason]:,}" for counts in totals.values()))
        for reason in reasons
    ]
    return _table(("outcome", *totals), rows)


def _winners_table(winners: Sequence[Winner], networks: Sequence[str]) -> str:
    rows = [
        (
            f"{place}",
            winner.search,
            f"{winner.entry.id}",
            *(f"{winner.scores[name]:.2f}" for name in networks),
            f"`{formula(winner.entry.candidate.graph, 'unicode')}`",
        )
        for place, winner in enumerate(winners, start=1)
    ]
    labels = (f"{network_label(name)} (%)" for name in networks)
    return _table(("place", "search", "candidate", *labels, "layer"), rows)


def find_winners(runs: Sequence[SearchRun]) -> list[Winner]:
    """Returns the best layers, at the larger budget where every search was ranked again."""
    if all(run.contents.reranked for run in runs):
        found = [
            Winner(run.name, standing.entry, standing.scores, reranked=True)
            for run in runs
            for standing in standings(run.contents)
            if standing.scores
        ]
    else:
        found = [
            Winner(run.name, entry, entry.verdict.scores, reranked=False)
            for run in runs
            for entry in run.contents.entries.best(NUM_WINNERS * len(runs))
            if entry.verdict is not None
        ]
    found.sort(key=lambda winner: -statistics.fmean(winner.scores.values()))
    layers: dict[str, Winner] = {}  # several searches may find the same one
    for winner in found:
        layers.setdefault(canonical_hash(winner.entry.candidate.graph), winner)
    return list(layers.values())[:NUM_WINNERS]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a table whose cells may hold bars, such as the |x| of a formula."""
    first, *rest = [[cell.replace("|", r"\|") for cell in line] for line in (header, *rows)]
    return markdown_table(first, rest)
