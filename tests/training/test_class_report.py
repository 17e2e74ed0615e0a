"""Tables of classes, against counts by NumPy alone."""

import csv

import numpy as np
import pytest

from evonorm_jax.analysis.confusion import draw_confusion, plot_confusion, read_confusion
from evonorm_jax.errors import UserError
from evonorm_jax.training.class_report import confusion_matrix, write_class_report


def read_rows(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_matrix_is_what_counting_gives():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 7, (2, 500))
    expected = np.zeros((7, 7), int)
    np.add.at(expected, (labels, predictions), 1)
    np.testing.assert_array_equal(confusion_matrix(labels, predictions, 7), expected)


def test_the_tables_by_hand(tmp_path):
    labels = np.array([0, 0, 0, 1, 1], np.int32)  # the third class has no example
    predictions = np.array([0, 0, 1, 1, 2], np.int32)
    names = ["cat, old", "dog", "$x_1$"]
    write_class_report(tmp_path, labels, predictions, names)
    read, counts = read_confusion(tmp_path / "confusion_matrix.csv")
    assert read == names
    assert counts.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    cat, dog, other = read_rows(tmp_path / "class_accuracy.csv")
    assert cat == {
        "class": "0",
        "name": "cat, old",
        "examples": "3",
        "accuracy": "0.666667",
        "predictions": "2",
        "precision": "1.000000",
    }
    assert (dog["accuracy"], dog["predictions"], dog["precision"]) == ("0.500000", "2", "0.500000")
    assert (other["examples"], other["accuracy"], other["precision"]) == ("0", "", "0.000000")
    (axis, _) = draw_confusion(read, counts).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "cat, old (3)",
        "dog (2)",
        f"{names[2]} (0)",
    ]
    figure = plot_confusion(tmp_path)
    assert figure == tmp_path / "confusion_matrix.png"
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_no_matrix_of_many_classes(tmp_path):
    names = [str(number) for number in range(1001)]
    write_class_report(tmp_path, np.array([1000]), np.array([3]), names)
    assert [path.name for path in tmp_path.iterdir()] == ["class_accuracy.csv"]
    assert read_rows(tmp_path / "class_accuracy.csv")[1000]["accuracy"] == "0.000000"
    assert plot_confusion(tmp_path) is None


@pytest.mark.parametrize("text", ["", "a,b\n", "t,a,b\na,1,2\n", "t,a\na,one\n", "t,a\nb,1\n"])
def test_a_table_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "confusion_matrix.csv").write_text(text)
    with pytest.raises(UserError, match=r"confusion_matrix.csv' is no .*evaluate again"):
        plot_confusion(tmp_path)
