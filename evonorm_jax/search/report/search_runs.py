"""Reads searches from their ledgers for figures and tables."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evonorm_jax.analysis.runs import layer_label
from evonorm_jax.errors import UserError
from evonorm_jax.search.engine.protocol import ProxyProtocol
from evonorm_jax.search.engine.verdicts import DecidingStage
from evonorm_jax.search.run.ledger_reader import LedgerContents, LedgerEntry, read_ledger

#: The measures of what a search has cost: candidates that were scored, candidates that were trained
#: at all, and training steps of both.
MEASURES = {
    "scored": "candidates scored",
    "trained": "candidates trained",
    "steps": "training steps",
}

_NETWORKS = {
    "efficientnet_b0_cifar": "EfficientNet-B0",
    "mobilenet_v2_cifar": "MobileNetV2",
    "resnet50_cifar": "ResNet-50",
    "cifar_resnet26": "ResNet-26",
}


@dataclasses.dataclass(frozen=True)
class SearchRun:
    """A search, finished or still going.

    Attributes:
      contents: What its ledger says.
      networks: The names of the networks that its candidates were scored on.
    """

    contents: LedgerContents
    networks: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The path of the ledger file."""
        return self.contents.path

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.resolve().parent.name

    @property
    def strategy(self) -> str:
        """What proposed its candidates: evolution or random search."""
        strategy = str(self.contents.config["search"]["strategy"])
        return "random search" if strategy == "random" else strategy

    @property
    def decided(self) -> list[LedgerEntry]:
        """The candidates that have a result, in the order of the results."""
        entries = [entry for entry in self.contents.entries if entry.place is not None]
        return sorted(entries, key=lambda entry: entry.place or 0)

    @property
    def scored(self) -> list[LedgerEntry]:
        """The decided candidates that have scores."""
        return [entry for entry in self.decided if entry.is_scored]

    def scores(self) -> np.ndarray:
        """Returns the accuracies of the scored candidates in percent, `[candidates, networks]`."""
        rows = [
            [entry.verdict.scores[name] for name in self.networks]
            for entry in self.scored
            if entry.verdict is not None
        ]
        return np.array(rows, dtype=float).reshape(-1, len(self.networks))

    @property
    def trained(self) -> list[LedgerEntry]:
        """The decided candidates that were trained, be it for a single step."""
        return [
            entry
            for entry in self.decided
            if entry.verdict is not None and entry.verdict.stage != DecidingStage.FILTERS
        ]

    def best_so_far(self, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns what had been spent after each trained candidate, and the best mean by then.

        Args:
          measure: The measure of what was spent, one of `MEASURES`.

        Returns:
          The cost, and the mean accuracy over the networks in percent; NaN before the first one.
        """
        trained = self.trained
        costs = [
            {"scored": entry.is_scored, "trained": 1, "steps": entry.verdict.steps}[measure]
            for entry in trained
            if entry.verdict is not None
        ]
        means = np.array([entry.mean if entry.is_scored else -np.inf for entry in trained])
        best = np.maximum.accumulate(means)
        return np.cumsum(costs, dtype=int), np.where(np.isfinite(best), best, np.nan)

    def cost(self, measure: str) -> np.ndarray:
        """Returns what had been spent after each of the scored candidates."""
        costs, _ = self.best_so_far(measure)
        return costs[[entry.is_scored for entry in self.trained]]

    def fates(self) -> dict[str, Counter[str]]:
        """Counts how random graphs ended, and how mutations did."""
        counts: dict[str, Counter[str]] = {"random graphs": Counter(), "mutations": Counter()}
        for entry in self.decided:
            origin = "random graphs" if entry.candidate.parent is None else "mutations"
            reason = entry.verdict.reason if entry.verdict else None
            counts[origin][reason or "scored"] += 1
        return counts


def load_searches(paths: Sequence[str | os.PathLike[str]]) -> list[SearchRun]:
    """Reads searches that may stand in one figure.

    Raises:
      UserError: One is no search, has no result yet, or was scored on other networks.
    """
    runs = []
    for path in paths:
        contents = read_ledger(path)
        for name in ("protocol.anchors", "search.strategy", "seed"):
            _check_has(contents, name)
        protocol = ProxyProtocol.from_dict(contents.config["protocol"])
        for entry in contents.entries:
            scores = entry.verdict.scores if entry.verdict and entry.is_scored else None
            if scores is not None and scores.keys() != {*protocol.anchor_names}:
                raise UserError(
                    f"{contents.path} is damaged: results, candidate {entry.id}: scores are for "
                    f"{', '.join(scores)}, but must be for the networks of its search, "
                    f"{', '.join(protocol.anchor_names)}."
                )
        runs.append(SearchRun(contents, protocol.anchor_names))
        if not runs[-1].decided:
            raise UserError(f"'{path}' has no result yet.")
        if runs[-1].networks != runs[0].networks:
            raise UserError(
                f"'{path}' was scored on {', '.join(runs[-1].networks)}, '{paths[0]}' on "
                f"{', '.join(runs[0].networks)}; draw them apart."
            )
    return runs


class StrategyProgress(NamedTuple):
    """Searches of one strategy, at equal costs.

    Attributes:
      strategy: The strategy of them all.
      costs: What had been spent, ascending, up to what the cheapest search spent: `[points]`.
      best: The mean accuracy of the best layer by then, in percent, `[searches, points]`.
    """

    strategy: str
    costs: np.ndarray
    best: np.ndarray


def strategy_progress(runs: Sequence[SearchRun], measure: str) -> list[StrategyProgress]:
    """Computes the best accuracy of each strategy against what was spent.

    Args:
      runs: Searches; those of one strategy are repetitions.
      measure: The measure of what was spent, one of `MEASURES`.
    """
    found = []
    for strategy in sorted({run.strategy for run in runs}):
        curves = [run.best_so_far(measure) for run in runs if run.strategy == strategy]
        curves = [(costs, best) for costs, best in curves if len(costs)]
        if not curves:
            continue
        last = min(costs[-1] for costs, _ in curves)
        grid = np.unique(np.concatenate([costs for costs, _ in curves]))
        # The curves begin where every search has scored something.
        first = max(costs[np.isfinite(best)][:1].sum() for costs, best in curves)
        grid = grid[(grid <= last) & (grid >= first)]
        rows = [best[np.searchsorted(costs, grid, side="right") - 1] for costs, best in curves]
        found.append(StrategyProgress(strategy, grid, np.array(rows)))
    return found


def total_fates(runs: Sequence[SearchRun]) -> dict[str, Counter[str]]:
    """Adds up the `fates` of several searches, of the origins that there are."""
    totals: dict[str, Counter[str]] = {}
    for run in runs:
        for origin, counts in run.fates().items():
            totals.setdefault(origin, Counter()).update(counts)
    return {origin: counts for origin, counts in totals.items() if counts}


def network_label(name: str) -> str:
    """Returns the name of an anchor network in prose.

    >>> network_label("resnet50_cifar"), network_label("cifar_resnet20")
    ('ResNet-50', 'CIFAR-Resnet20')
    """
    return _NETWORKS.get(name) or layer_label(name)


def reason_label(reason: str) -> str:
    """Returns a reason of a rejection in prose.

    >>> reason_label("no_path_from_x")
    'no path from x'
    """
    return reason.replace("_", " ")


def _check_has(contents: LedgerContents, field: str) -> None:
    """Raises `UserError` unless the config of the search has the field."""
    value: Any = contents.config
    for name in field.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise UserError(
                f"{contents.path} is damaged: about, config: the field {field} is missing, which "
                "the config of every search has. Put a whole copy of the ledger in its place."
            )
        value = value[name]
