"""How well a classifier tells each class from the others: two tables of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evonorm_jax.run_files import CLASS_ACCURACY_FILE, CONFUSION_FILE, write_csv

#: With more classes no matrix is written: of 1,000 it has a million cells.
MOST_MATRIX_CLASSES = 1000


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts how often each class was taken for each other.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]

    Args:
      labels: True classes `[N]`, integers.
      predictions: Predicted classes `[N]`, integers.
      num_classes: K.

    Returns:
      int64 `[K, K]`: rows are true classes, columns predicted ones.
    """
    cells = np.asarray(labels, np.int64) * num_classes + predictions
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def write_class_report(
    folder: Path,
    labels: np.ndarray,
    predictions: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Writes `class_accuracy.csv` and, for up to 1,000 classes, `confusion_matrix.csv`.

    `class_accuracy.csv` has a row for each class: its number and name, its examples, the share of
    them that was recognised (`accuracy`), how often the class was predicted, and the share of these
    predictions that was right (`precision`); a share of nothing is left empty. In
    `confusion_matrix.csv` rows are true classes and columns predicted ones.

    Args:
      folder: A folder that is there.
      labels: True classes `[N]`, integers.
      predictions: Predicted classes `[N]`, integers.
      class_names: One for each class.
    """
    count = len(class_names)
    examples = np.bincount(labels, minlength=count)
    predicted = np.bincount(predictions, minlength=count)
    right = np.bincount(labels[labels == predictions], minlength=count)
    rows = zip(
        range(count),
        class_names,
        examples,
        _shares(right, examples),
        predicted,
        _shares(right, predicted),
        strict=True,
    )
    header = ("class", "name", "examples", "accuracy", "predictions", "precision")
    write_csv(folder / CLASS_ACCURACY_FILE, [header, *rows])
    if count <= MOST_MATRIX_CLASSES:
        matrix = confusion_matrix(labels, predictions, count)
        table = [(name, *row) for name, row in zip(class_names, matrix.tolist(), strict=True)]
        write_csv(folder / CONFUSION_FILE, [("true class", *class_names), *table])


def _shares(right: np.ndarray, of: np.ndarray) -> list[str]:
    return [f"{a / b:.6f}" if b else "" for a, b in zip(right, of, strict=True)]
