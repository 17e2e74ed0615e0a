import dataclasses
import json

import pytest

from evonorm_jax.analysis.sweep_figures import draw_accuracy
from evonorm_jax.analysis.sweep_files import load_sweep
from evonorm_jax.analysis.sweep_report import report
from evonorm_jax.analysis.sweep_results import read_results, write_results
from evonorm_jax.analysis.sweep_tables import accuracy_table, counts_line, metric_table
from evonorm_jax.analysis.sweeps import Setting, Sweep, SweepRun
from evonorm_jax.metrics import CLASSIFICATION, image_synthesis_metrics
from tests.analysis.sweep_folders import write_run

METRICS = image_synthesis_metrics("samples/classifier_fid")


def synthesis(*sizes):
    """Two layers, two seeds that are apart by 2 in the distance and 20 % in the recall."""
    runs = [
        SweepRun(
            *(layer, size, seed, 3000),
            score=4.0 + 2 * seed,
            others={
                "classifier_kid": 0.04,
                "classifier_recall": 0.5 + 0.2 * seed,
                "within_class_variance": 1.25,
                "classifier_fid_real": 0.14,
                "classifier_recall_real": (0.9, 0.95)[seed],
                "num_samples": 1437,
                "num_real": 360,
            },
        )
        for layer in ("bn_relu", "evonorm_s0")
        for size in sizes
        for seed in (0, 1)
    ]
    return Sweep(Setting("digits", "embedded", "biggan", 1, 0.0), runs, METRICS)


def test_all_metrics_stand_by_layer_with_their_own_decimals():
    # The spread of 4 and 6, as of 0.5 and 0.7, is their difference over the root of 2.
    cells = "5.00 ± 1.41 | 0.0400 ± 0.0000 | 60.0 ± 14.1 | 1.25 ± 0.00 |"
    assert metric_table(synthesis(64)).splitlines() == [
        "| layer | classifier FID ↓ | classifier KID ↓ | recall (%) ↑ | within-class variance |",
        "| --- | --- | --- | --- | --- |",
        f"| BN-ReLU | {cells}",
        f"| EvoNorm-S0 | {cells}",
        "| real images | 0.14 |  | 90.0 to 95.0 |  |",
    ]
    assert accuracy_table(synthesis(64)).splitlines()[2] == "| BN-ReLU | 5.00 ± 1.41 |"


def test_several_sizes_are_several_rows():
    lines = metric_table(synthesis(64, 8)).splitlines()
    assert lines[0].startswith("| layer | images per worker | classifier FID ↓ |")
    starts = [line.split(" | ")[:3] for line in lines[2:]]
    assert starts == [
        ["| BN-ReLU", "64", "5.00 ± 1.41"],
        ["| BN-ReLU", "8", "5.00 ± 1.41"],
        ["| EvoNorm-S0", "64", "5.00 ± 1.41"],
        ["| EvoNorm-S0", "8", "5.00 ± 1.41"],
        ["| real images", "", "0.14"],
    ]


def test_a_seed_that_has_not_measured_a_metric_is_counted():
    sweep = synthesis(64)
    last = sweep.runs[-1]
    sweep.runs[-1] = dataclasses.replace(last, others={"classifier_kid": 0.05})
    (row,) = [line for line in metric_table(sweep).splitlines() if "EvoNorm-S0" in line]
    assert row.split(" | ")[1:] == [
        "5.00 ± 1.41",
        "0.0450 ± 0.0071",
        "50.0 (1 of 2 seeds)",
        "1.25 (1 of 2 seeds) |",
    ]


def test_the_report_says_what_the_metrics_are_of():
    text = report(synthesis(64), [])
    assert text.startswith("# Classifier FID by layer: digits\n")
    assert "The values are of 1,437 samples and 360 held-out real images. In the last row," in text
    assert counts_line(synthesis(64)) == "1,437 samples and 360 held-out real images"


def test_a_classifiers_report_has_no_second_table(tmp_path):
    write_run(tmp_path, "bn_relu", 8, 0, 0.5)
    sweep = load_sweep(tmp_path)
    assert metric_table(sweep) == counts_line(sweep) == ""
    assert "All metrics" not in report(sweep, [])


def test_all_metrics_are_in_the_csv_table_and_come_back(tmp_path):
    sweep = synthesis(64)
    write_results(sweep, tmp_path / "results.csv")
    header = (tmp_path / "results.csv").read_text().partition("\n")[0].split(",")
    assert {"classifier_recall", "classifier_recall_real", "num_samples"} < set(header)
    assert "classifier_precision" not in header  # which no run has measured
    again = read_results(tmp_path / "results.csv")
    assert again.runs == sweep.runs
    assert again.metrics.main == METRICS.main
    assert (again.metrics.tabled, again.metrics.counts) == (METRICS.tabled, METRICS.counts)


@pytest.mark.parametrize("older", [False, True])
def test_the_metrics_of_a_run_come_from_its_metadata(tmp_path, older):
    path = write_run(tmp_path, "bn_relu", 8, 0, 0.5)
    metrics = METRICS.to_json()
    if older:  # it was trained before reports had a table of all metrics
        del metrics["tabled"], metrics["counts"]
        metrics["known"] = {"classifier_fid": {"label": "Fréchet distance"}}
    (path / "metadata.json").write_text(json.dumps({"metrics": metrics}))
    summary = {"samples/classifier_fid": 5.0, "samples/classifier_recall": 0.5, "steps": 20}
    (path / "summary.json").write_text(json.dumps(summary))
    assert metric_table(load_sweep(tmp_path)).splitlines()[::2] == [
        "| layer | classifier FID ↓ | recall (%) ↑ |",
        "| BN-ReLU | 5.00 | 50.0 |",
    ]


def test_the_inception_network_has_the_figures_without_classes():
    assert image_synthesis_metrics("samples/fid").tabled == (
        *("fid", "kid", "precision", "recall"),
        "inception_score",
    )
    assert CLASSIFICATION.tabled == ()


def test_what_real_images_reach_is_drawn():
    figure = draw_accuracy(synthesis(64, 8))
    (axis,) = figure.axes
    (dotted,) = [line for line in axis.get_lines() if line.get_linestyle() == ":"]
    assert list(dotted.get_ydata()) == [0.14, 0.14]
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels[:3] == ["BN-ReLU", "EvoNorm-S0", "held-out real images"]
