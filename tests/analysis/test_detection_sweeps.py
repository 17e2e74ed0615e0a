"""The report of a sweep of detectors: AP of masks and boxes by layer, under their own names."""

import json

import pytest

from evonorm_jax.analysis.sweep_files import load_sweep
from evonorm_jax.analysis.sweep_report import report
from evonorm_jax.analysis.sweep_results import read_results, write_results
from evonorm_jax.analysis.sweep_tables import metric_table
from evonorm_jax.metrics import instance_segmentation_metrics
from tests.analysis.conftest import event
from tests.analysis.sweep_folders import write_run

FIELDS = {
    "backbone_fields": {"num_filters": 32, "stage_sizes": [1, 1]},
    **dict.fromkeys(("fpn_filters", "head_filters", "rpn_filters"), 64),
    **dict.fromkeys(("train_candidates", "candidates"), 500),
    **dict.fromkeys(("train_proposals", "proposals", "box_samples"), 128),
}


def write_detector(root, layer, seed, mask_ap, *, images_per_worker=4, older=False):
    """A finished run of a small detector on nuclei; box AP is 5 points above that of masks."""
    path = write_run(
        root,
        layer,
        images_per_worker,
        seed,
        0.5,
        dataset="nuclei256",
        model="maskrcnn_r18_fpn",
        num_workers=4 // images_per_worker,
    )
    config = json.loads((path / "config.json").read_text())
    config["model"]["fields"] = FIELDS
    (path / "config.json").write_text(json.dumps(config))
    metrics = instance_segmentation_metrics((1, 10, 100)).to_json()
    if older:  # before reports had such a table
        del metrics["tabled"], metrics["counts"]
    (path / "metadata.json").write_text(json.dumps({"metrics": metrics}))
    values = {}
    for kind, shift in (("mask", 0.0), ("box", 0.05)):
        values[f"eval/{kind}_ap"] = mask_ap + shift
        values[f"eval/{kind}_ap50"] = mask_ap + shift + 0.3
        values[f"eval/{kind}_ap75"] = mask_ap + shift - 0.1
    (path / "metrics.jsonl").write_text(event(20, **values) + "\n")
    summary = {**values, "eval/examples": 16, "steps": 20, "train_seconds": 60.0}
    (path / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize("older", [False, True])
def test_ap_of_masks_and_boxes_stand_by_layer_with_their_spread(tmp_path, older):
    for seed in (0, 1):
        write_detector(tmp_path, "bn_relu", seed, 0.30 + 0.02 * seed, older=older)
        write_detector(tmp_path, "evonorm_s0,group_size=8", seed, 0.35, older=older)
    sweep = load_sweep(tmp_path)
    assert metric_table(sweep).splitlines() == [
        "| layer | mask AP (%) ↑ | mask AP50 (%) ↑ | mask AP75 (%) ↑ "
        "| box AP (%) ↑ | box AP50 (%) ↑ | box AP75 (%) ↑ |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| BN-ReLU | 31.0 ± 1.4 | 61.0 ± 1.4 | 21.0 ± 1.4 | 36.0 ± 1.4 | 66.0 ± 1.4 | 26.0 ± 1.4 |",
        "| EvoNorm-S0 | 35.0 ± 0.0 | 65.0 ± 0.0 | 25.0 ± 0.0 "
        "| 40.0 ± 0.0 | 70.0 ± 0.0 | 30.0 ± 0.0 |",
    ]
    text = report(sweep, [])
    assert text.startswith(
        "# Mask AP by layer: nuclei256\n\n"
        "Nuclei, Mask R-CNN of ResNet-18-FPN (9 fields set), 1 worker, 2 epochs. Mask AP in percent"
    )
    assert "top-1" not in text
    assert "test images is" not in text  # AP is no share of the images
    write_results(sweep, tmp_path / "results.csv")
    again = read_results(tmp_path / "results.csv")
    assert (again.setting, again.metrics.main) == (sweep.setting, sweep.metrics.main)
    assert again.statistic("bn_relu", 4) == sweep.statistic("bn_relu", 4)
    assert again.runs[0].others["box_ap75"] == pytest.approx(0.25)


def test_images_per_worker_are_rows(tmp_path):
    for size, mask_ap in ((4, 0.3), (1, 0.2)):
        write_detector(tmp_path, "bn_relu", 0, mask_ap, images_per_worker=size)
    sweep = load_sweep(tmp_path)
    starts = [line.split(" | ")[:3] for line in metric_table(sweep).splitlines()[2:]]
    assert starts == [["| BN-ReLU", "4", "30.0"], ["| BN-ReLU", "1", "20.0"]]
    text = report(sweep, [])
    assert text.startswith("# Mask AP against images per worker: nuclei256\n")
    assert "(9 fields set), 4 images a step, 2 epochs." in text
