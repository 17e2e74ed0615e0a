"""Claims that the paper makes in its text and figures, beside what was seen of them here."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy.stats

from evonorm_jax.analysis.records import Recorded
from evonorm_jax.analysis.sweep_tables import (
    NOT_RUN,
    TRAIN_LOSS,
    format_difference,
    format_seeds,
    format_statistic,
    markdown_table,
)
from evonorm_jax.errors import UserError

_RANDOM_LAYERS = "search/random_layers"  # in `results/`
_ABOVE_CHANCE = 12.0  # percent of ten classes; guessing of 5,000 images has a spread of 0.4


def claims(results: Path, recorded: Iterable[Recorded]) -> str:
    """Returns the claims as a table in Markdown, made of the records in the folder `results`.

    Raises:
      UserError: A table of a record is damaged.
    """
    # Known from what others write about a figure of the paper; we have not seen it ourselves.
    dynamics = (
        "ResNet-50, as others report it: EvoNorm-B0 has the higher training loss and the higher "
        "accuracy than BN-ReLU"
    )
    invariance = "EvoNorm-B0 and EvoNorm-S0 are scale-invariant"
    random = "Random layers: most stay at chance, and their ranks differ between networks (Fig. 4)"
    rows = [[dynamics, *cells] for cells in _training_dynamics(recorded)]
    table = "[B0 is, S0 is not](layer_search.md#scale-invariance)"
    rows.append([invariance, table, "`python -m tests.layers.scale_invariance`"])
    rows.append([random, *_random_layers(results)])
    return markdown_table(["the paper", "here", "record or command"], rows)


def _training_dynamics(recorded: Iterable[Recorded]) -> list[list[str]]:
    """Returns EvoNorm-B0 less BN-ReLU at the largest size of every sweep that has both."""
    cells = []
    for record in recorded:
        sweep = record.sweep
        if sweep is None or not sweep.has_papers_metric:
            continue
        b0, bn = sweep.find("evonorm_b0"), sweep.find("bn_relu")
        if b0 is None or bn is None:
            continue
        size = sweep.sizes[0]
        losses = [sweep.train_loss(layer, size) for layer in (b0, bn)]
        points = sweep.difference((b0, size), (bn, size))
        if points is not None and all(loss.mean is not None for loss in losses):
            ours, theirs = (format_statistic(loss, TRAIN_LOSS) for loss in losses)
            text = f"loss {ours} against {theirs}, accuracy "
            text += f"{format_difference(points, sweep.metrics.main)} points; "
            text += format_seeds(losses[0].finished)
            cells.append([text, f"[{record.title}](../results/{record.folder})"])
    return cells or [[NOT_RUN, ""]]


def _random_layers(results: Path) -> list[str]:
    """Returns how random layers, none of them rejected, compare between networks.

    Raises:
      UserError: The table of a search lacks its columns or rows.
    """
    path = results / _RANDOM_LAYERS / "scored.csv"
    if not path.is_file():
        return [NOT_RUN, ""]
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = list(rows[0]) if rows else []
    if not {"steps", "graph"} <= {*columns}:
        raise UserError(f"'{path}' must have a row for each layer, with columns steps and graph.")
    networks = columns[columns.index("steps") + 1 : columns.index("graph")]
    accuracies = np.array([[float(row[name]) for name in networks] for row in rows])
    trained = accuracies[accuracies.max(axis=1) >= _ABOVE_CHANCE]
    text = (
        f"{len(rows) - len(trained)} of {len(rows)} are below {_ABOVE_CHANCE:.0f} % in every "
        f"network; rank correlation between two networks {_rank_correlations(accuracies)}, among "
        f"the other {len(trained)} {_rank_correlations(trained)} "
        f"([scatter](../results/{_RANDOM_LAYERS}/scatter.png))"
    )
    return [text, f"[random layers](../results/{_RANDOM_LAYERS})"]


def _rank_correlations(accuracies: np.ndarray) -> str:
    """Returns the range of Spearman's correlation over pairs of networks, `[layers, networks]`."""
    varied = [column for column in accuracies.T if len(column) > 1 and np.ptp(column) > 0]
    found = [scipy.stats.spearmanr(*pair).statistic for pair in itertools.combinations(varied, 2)]
    return f"{min(found):.2f} to {max(found):.2f}" if found else "unknown"
