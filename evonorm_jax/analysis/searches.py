"""Searches, read from their ledgers for figures and tables."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evonorm_jax.analysis.runs import layer_label
from evonorm_jax.errors import UserError
from evonorm_jax.search.evolution import pareto_front
from evonorm_jax.search.protocol import Protocol
from evonorm_jax.search.records import Contents, Entry, read_ledger

#: Stages of candidates that were decided without training.
UNTRAINED = ("filters", "cache")

_NETWORKS = {
    "efficientnet_b0_cifar": "EfficientNet-B0",
    "mobilenet_v2_cifar": "MobileNetV2",
    "resnet50_cifar": "ResNet-50",
}


@dataclasses.dataclass(frozen=True)
class SearchRun:
    """A search, finished or still going.

    Attributes:
      contents: of its ledger.
      networks: that its candidates were scored on, by name.
    """

    contents: Contents
    networks: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Of the ledger."""
        return self.contents.path

    @property
    def strategy(self) -> str:
        """ "evolution" or "random search"."""
        strategy = str(self.contents.config["search"]["strategy"])
        return "random search" if strategy == "random" else strategy

    @property
    def decided(self) -> list[Entry]:
        """The candidates that have a result, in the order of the results."""
        entries = [entry for entry in self.contents.entries if entry.place is not None]
        return sorted(entries, key=lambda entry: entry.place or 0)

    @property
    def scored(self) -> list[Entry]:
        """Those of them that have scores."""
        return [entry for entry in self.decided if entry.is_scored]

    def scores(self) -> np.ndarray:
        """Accuracies of the scored candidates in percent, `[candidates, networks]`."""
        rows = [
            [entry.evaluation.scores[name] for name in self.networks]
            for entry in self.scored
            if entry.evaluation is not None
        ]
        return np.array(rows, dtype=float).reshape(-1, len(self.networks))

    def best_so_far(self) -> np.ndarray:
        """The best mean accuracy after each candidate that was trained; NaN before the first."""
        means = [
            entry.mean if entry.is_scored else -np.inf
            for entry in self.decided
            if entry.evaluation is not None and entry.evaluation.stage not in UNTRAINED
        ]
        best = np.maximum.accumulate(np.array(means, dtype=float))
        return np.where(np.isfinite(best), best, np.nan)

    def fates(self) -> dict[str, Counter[str]]:
        """How many random graphs and how many mutations ended in which way."""
        counts: dict[str, Counter[str]] = {"random graphs": Counter(), "mutations": Counter()}
        for entry in self.decided:
            origin = "random graphs" if entry.candidate.parent is None else "mutations"
            reason = entry.evaluation.reason if entry.evaluation else None
            counts[origin][reason or "scored"] += 1
        return counts

    def front(self) -> list[Entry]:
        """The Pareto front of the scored candidates."""
        scored = self.scored
        return [scored[i] for i in pareto_front(self.scores().tolist())]


def load_searches(paths: Sequence[str | os.PathLike[str]]) -> list[SearchRun]:
    """Reads searches that may stand in one figure.

    Raises:
      UserError: one is no search, has no result yet, or was scored on other networks.
    """
    runs = []
    for path in paths:
        contents = read_ledger(path)
        anchors = Protocol.from_json(contents.config["protocol"]).anchors
        runs.append(SearchRun(contents, tuple(anchor.name for anchor in anchors)))
        if not runs[-1].decided:
            raise UserError(f"'{path}' has no result yet.")
        if runs[-1].networks != runs[0].networks:
            raise UserError(
                f"'{path}' was scored on {', '.join(runs[-1].networks)}, '{paths[0]}' on "
                f"{', '.join(runs[0].networks)}; draw them apart."
            )
    return runs


def total_fates(runs: Sequence[SearchRun]) -> dict[str, Counter[str]]:
    """The `fates` of several searches together, of the origins that there are."""
    totals: dict[str, Counter[str]] = {}
    for run in runs:
        for origin, counts in run.fates().items():
            totals.setdefault(origin, Counter()).update(counts)
    return {origin: counts for origin, counts in totals.items() if counts}


def network_label(name: str) -> str:
    """The name of an anchor network in prose.

    >>> network_label("resnet50_cifar"), network_label("cifar_resnet20")
    ('ResNet-50', 'CIFAR-Resnet20')
    """
    return _NETWORKS.get(name) or layer_label(name)


def reason_label(reason: str) -> str:
    """A reason of a rejection in prose.

    >>> reason_label("no_path_from_x")
    'no path from x'
    """
    return reason.replace("_", " ")
