"""The confusion matrix of a classifier as a figure."""

import csv
import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evonorm_jax.analysis.curves import save_figure
from evonorm_jax.errors import UserError
from evonorm_jax.run_files import CONFUSION_FIGURE, CONFUSION_FILE

_MOST_NAMES = 40  # classes; more names than that cannot be read
_MOST_NUMBERS = 20  # classes; the same of the numbers in the cells


def plot_confusion(folder: str | os.PathLike[str]) -> Path | None:
    """Draws `confusion_matrix.csv` of a folder beside it; None where there is none.

    Raises:
      UserError: The file is not what an evaluation has written.
    """
    path = Path(folder) / CONFUSION_FILE
    if not path.exists():
        return None
    return save_figure(draw_confusion(*read_confusion(path)), path.with_name(CONFUSION_FIGURE))


def read_confusion(path: Path) -> tuple[list[str], np.ndarray]:
    """Reads names and counts `[K, K]` of `confusion_matrix.csv`.

    Raises:
      UserError: The file is not what an evaluation has written.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            header, *rows = csv.reader(stream)
        counts = np.array([row[1:] for row in rows], np.int64)
    except (ValueError, OverflowError, csv.Error) as error:
        raise UserError(f"'{path}' is no table of counts ({error}); evaluate again.") from None
    names = header[1:]
    if counts.shape != (len(names), len(names)) or [row[0] for row in rows] != names:
        raise UserError(f"'{path}' is no square table of classes; evaluate again.")
    return names, counts


def draw_confusion(names: list[str], counts: np.ndarray) -> Figure:
    """Draws for each true class, a row, the share of its examples that each prediction had.

    Args:
      names: Names of the K classes.
      counts: `[K, K]`, rows are true classes.
    """
    size = min(3.5 + 0.3 * len(names), 12.0)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axis = figure.subplots()
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axis, shrink=0.8, label="share of the true class (%)")
    if len(names) <= _MOST_NAMES:
        axis.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
        labels = [f"{name} ({count:,})" for name, count in zip(names, counts.sum(1), strict=True)]
        axis.set_yticks(range(len(names)), labels, parse_math=False)
    if len(names) <= _MOST_NUMBERS:
        _write_shares(axis, shares)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class (examples)" if len(names) <= _MOST_NAMES else "true class")
    total = counts.sum()
    right = 100 * np.trace(counts) / max(total, 1)
    axis.set_title(f"{right:.2f} % of {total:,} examples on the diagonal")
    return figure


def _write_shares(axis: Axes, shares: np.ndarray) -> None:
    """Writes into each cell that is not empty its share in percent."""
    for row, column in zip(*np.nonzero(shares), strict=True):
        share = shares[row, column]
        colour = "white" if share > 50 else "black"
        text = f"{share:.0f}" if share >= 1 else "<1"
        axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
