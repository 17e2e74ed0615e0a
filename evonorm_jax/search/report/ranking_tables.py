"""Tables of how well proxies rank layers, from the records of `run/proxy_ranking.py`."""

import csv
import dataclasses
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from evonorm_jax.errors import UserError
from evonorm_jax.graphs.formula import formula
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.search.run.proxy_ranking import LONG, LONG_TRAINING, PROTOCOLS, RankedLayer

#: The accuracy of guessing ten classes, in percent. A layer counts as one that trains if it has
#: twice that in every network of the long training.
CHANCE = 10.0

#: The number of resamples of the bootstrap.
NUM_RESAMPLES = 10_000

_MIN_LAYERS = 3  # of two layers the rank correlation is 1 or -1


@dataclasses.dataclass(frozen=True)
class RankedScores:
    """The records of the layers that every protocol has scored.

    Attributes:
      layers: The layers.
      values: By protocol, in the order of the layers: the mean accuracy over its networks in
        percent.
      long: By network of the long training, in the same order: the accuracy in percent.
      cpu_seconds: By protocol, in the same order: the processor time of the evaluation.
    """

    layers: tuple[RankedLayer, ...]
    values: Mapping[str, tuple[float, ...]]
    long: Mapping[str, tuple[float, ...]]
    cpu_seconds: Mapping[str, tuple[float, ...]]

    @property
    def proxies(self) -> list[str]:
        """The protocols other than the long training."""
        return [name for name in self.values if name != LONG]

    @property
    def trains(self) -> list[int]:
        """The places of the layers that train: see `CHANCE`."""
        accuracies = zip(*self.long.values(), strict=True)
        return [i for i, reached in enumerate(accuracies) if min(reached) >= 2 * CHANCE]


def ranked_scores(records: Sequence[Mapping[str, Any]]) -> RankedScores:
    """Collects the layers that every protocol in the records has scored.

    Raises:
      UserError: The long training or every proxy is missing, or there are fewer than three layers.
    """
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(record["protocol"], {})[record["graph"]] = record
    common = set.intersection(*map(set, found.values())) if found else set()
    if LONG not in found or len(found) < 2 or len(common) < _MIN_LAYERS:
        raise UserError(
            f"{len(common)} layers are scored by every protocol; a rank correlation needs "
            f"{_MIN_LAYERS}. Let the ranking go on."
        )
    graphs = [graph for graph in found[LONG] if graph in common]
    layers = tuple(
        RankedLayer(record["layer"], record["origin"], Graph.from_text(graph))
        for graph in graphs
        for record in [found[LONG][graph]]
    )
    values, seconds = {}, {}
    for protocol in sorted(found, key=list(PROTOCOLS).index):
        scored = [found[protocol][graph] for graph in graphs]
        values[protocol] = tuple(statistics.fmean(r["scores"].values()) for r in scored)
        seconds[protocol] = tuple(r["cpu_seconds"] for r in scored)
    in_networks = [found[LONG][graph]["scores"] for graph in graphs]
    long = {name: tuple(scores[name] for scores in in_networks) for name in in_networks[0]}
    return RankedScores(layers, values, long, seconds)


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Returns Spearman's rank correlation; NaN if all values of one are equal.

    >>> spearman([1, 2, 3, 4], [10, 30, 20, 40])
    0.8
    """
    return round(float(_correlations(np.asarray(x, float), np.asarray(y, float))), 12)


def spearman_interval(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % interval of `spearman`: percentiles of a bootstrap over the pairs."""
    pairs, rng = np.array([x, y], float), np.random.default_rng(0)
    samples = rng.integers(pairs.shape[1], size=(NUM_RESAMPLES, pairs.shape[1]))
    low, high = np.nanpercentile(_correlations(*pairs[:, samples]), [2.5, 97.5])
    return float(low), float(high)


def _correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the rank correlation along the last axis."""
    ranked = (scipy.stats.rankdata(values, axis=-1) for values in (x, y))
    of_x, of_y = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in ranked)
    norms = np.sqrt((of_x**2).sum(axis=-1) * (of_y**2).sum(axis=-1))
    with np.errstate(invalid="ignore"):
        return np.asarray((of_x * of_y).sum(axis=-1) / norms)


def as_markdown(scores: RankedScores) -> str:
    """Writes a table of the rank correlations, and one of all layers."""
    return "\n".join([*_proxy_lines(scores), "", *_layer_lines(scores)]) + "\n"


def _proxy_lines(scores: RankedScores) -> list[str]:
    long, trains, everyone = scores.values[LONG], scores.trains, range(len(scores.layers))
    chosen = [(long, everyone), (long, trains)]
    chosen += [(accuracies, trains) for accuracies in scores.long.values()]
    alone = [f"with `{network}` alone" for network in scores.long]
    head = ["proxy", "what it is", "CPU s", "rank correlation, all layers", "layers that train"]
    head += [*alone, "long accuracy of its best five (%)"]
    lines = [
        f"{len(scores.layers)} layers were trained for long: {LONG_TRAINING.about}. {len(trains)} "
        f"of them train, which is to reach {2 * CHANCE:g} % in each network. A rank correlation is "
        "with the mean of the networks, or among the layers that train with one alone. Intervals: "
        f"95 %, bootstrap over layers, {NUM_RESAMPLES:,} resamples. CPU seconds: median of the "
        "known layers.",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    known = [i for i, layer in enumerate(scores.layers) if layer.origin == "known"]
    for name in scores.proxies:
        values = scores.values[name]
        seconds = [scores.cpu_seconds[name][i] for i in known]
        cells = [f"`{name}`", PROTOCOLS[name].about]
        cells.append(f"{statistics.median(seconds):.1f}" if seconds else "")
        cells += [_correlation_cell(values, accuracies, places) for accuracies, places in chosen]
        best = sorted(everyone, key=values.__getitem__, reverse=True)[:5]
        cells.append(f"{statistics.fmean(long[i] for i in best):.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _correlation_cell(proxy: Sequence[float], long: Sequence[float], places: Sequence[int]) -> str:
    x, y = ([values[i] for i in places] for values in (proxy, long))
    if len(places) < _MIN_LAYERS or len(set(x)) == 1 or len(set(y)) == 1:
        return ""
    low, high = spearman_interval(x, y)
    return f"{spearman(x, y):.2f} ({low:.2f} to {high:.2f})"


def _layer_lines(scores: RankedScores) -> list[str]:
    long = scores.values[LONG]
    head = ["layer", "long (%)", *(f"`{network}`" for network in scores.long)]
    head += [*scores.proxies, "formula"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for i in sorted(range(len(long)), key=long.__getitem__, reverse=True):
        layer = scores.layers[i]
        columns = [long, *scores.long.values(), *(scores.values[name] for name in scores.proxies)]
        cells = [layer.name, *(f"{values[i]:.1f}" for values in columns)]
        text = formula(layer.graph, "unicode").replace("|", r"\|")
        lines.append(f"| {' | '.join(cells)} | `{text}` |")
    return lines


def as_csv(scores: RankedScores) -> str:
    """Writes a row for each layer."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    networks = [f"{LONG}: {network}" for network in scores.long]
    seconds = [f"{name} CPU s" for name in scores.values]
    writer.writerow(["layer", "origin", *scores.values, *networks, *seconds, "graph"])
    for i, layer in enumerate(scores.layers):
        accuracies = [*scores.values.values(), *scores.long.values()]
        row = [f"{values[i]:.2f}" for values in accuracies]
        row += [f"{spent[i]:.1f}" for spent in scores.cpu_seconds.values()]
        writer.writerow([layer.name, layer.origin, *row, layer.graph.to_text()])
    return file.getvalue()
