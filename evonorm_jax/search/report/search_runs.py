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
from evonorm_jax.search.run.ledger_reader import LedgerContents, read_ledger

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
    def scored(self) -> list[int]:
        """The places of the scored candidates among the results."""
        return [place for place, why in enumerate(self.contents.entries.reasons) if why is None]

    @property
    def trained(self) -> list[int]:
        """The places of the candidates that were trained, be it for a single step."""
        stages = enumerate(self.contents.entries.stages)
        return [place for place, stage in stages if stage != DecidingStage.FILTERS]

    def scores(self) -> np.ndarray:
        """Returns the accuracies of the scored candidates in percent, `[candidates, networks]`."""
        rows = map(self.contents.entries.scores, self.scored)
        values = [[row[name] for name in self.networks] for row in rows]
        return np.array(values, dtype=float).reshape(-1, len(self.networks))

    def best_so_far(self, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns what had been spent after each trained candidate, and the best mean by then.

        Args:
          measure: The measure of what was spent, one of `MEASURES`.

        Returns:
          The cost, and the mean accuracy over the networks in percent; NaN before the first one.
        """
        entries = self.contents.entries
        trained = self.trained
        scored = [entries.reasons[place] is None for place in trained]
        costs: dict[str, Sequence[int]] = {
            "scored": scored,
            "trained": [1] * len(trained),
            "steps": [entries.steps[place] for place in trained],
        }
        pairs = zip(trained, scored, strict=True)
        means = [entries.mean(place) if is_scored else -np.inf for place, is_scored in pairs]
        best = np.maximum.accumulate(np.array(means))
        return np.cumsum(costs[measure], dtype=int), np.where(np.isfinite(best), best, np.nan)

    def best_by(self, measure: str, budget: int) -> float:
        """Returns the best mean in percent once `budget` was spent; NaN if nothing was scored."""
        costs, best = self.best_so_far(measure)
        spent = np.searchsorted(costs, budget, side="right")
        return float(best[spent - 1]) if spent else float("nan")

    def cost(self, measure: str) -> np.ndarray:
        """Returns what had been spent after each of the scored candidates."""
        costs, _ = self.best_so_far(measure)
        reasons = self.contents.entries.reasons
        return costs[[reasons[place] is None for place in self.trained]]

    def fates(self) -> dict[str, Counter[str]]:
        """Counts how random graphs ended, and how mutations did."""
        counts: dict[str, Counter[str]] = {"random graphs": Counter(), "mutations": Counter()}
        entries = self.contents.entries
        for place, reason in enumerate(entries.reasons):
            origin = "random graphs" if entries.is_random(place) else "mutations"
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
        runs.append(SearchRun(contents, protocol.anchor_names))
        entries = contents.entries
        for place in runs[-1].scored:
            scores = entries.scores(place)
            if scores.keys() != {*protocol.anchor_names}:
                raise UserError(
                    f"{contents.path} is damaged: results, candidate {entries.ids[place]}: "
                    f"scores are for {', '.join(scores)}, but must be for the networks of its "
                    f"search, {', '.join(protocol.anchor_names)}."
                )
        if not entries.ids:
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
