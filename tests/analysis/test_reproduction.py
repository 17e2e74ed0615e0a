import json
import re
from pathlib import Path

import pytest

from evonorm_jax.analysis.reproduction import REPRODUCTION_FILE, reproduction
from evonorm_jax.analysis.sweep_files import load_sweep
from evonorm_jax.analysis.sweep_report import write_sweep_report
from evonorm_jax.analysis.sweep_results import write_results
from evonorm_jax.errors import UserError
from evonorm_jax.metrics import instance_segmentation_metrics
from evonorm_jax.norm_act import norm_act
from experiments import launch
from tests.analysis.conftest import event
from tests.analysis.sweep_folders import write_run, write_sweep

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def repository(tmp_path):
    """A repository with two configs and no results."""
    (tmp_path / "configs" / "sweeps").mkdir(parents=True)
    for name in (
        "imagenet_r50_bn_relu",
        "imagenet_r50_evonorm_b0",
        "sweeps/imagenet_r50_batch_size",
    ):
        (tmp_path / "configs" / f"{name}.py").write_text("")
    return tmp_path


def record(repository, name, **fields):
    """A sweep of that name in `results/`."""
    runs = write_sweep(repository / "runs" / name, **fields)
    output = repository / "results" / name
    output.mkdir(parents=True)
    write_results(load_sweep(runs), output / "results.csv")
    (output / "README.md").write_text(f"# The sweep {name}\n")


def lines(text, *parts):
    return [line for line in text.splitlines() if all(part in line for part in parts)]


def test_the_reproduction_of_this_repository_is_fresh():
    assert (ROOT / REPRODUCTION_FILE).read_text() == reproduction(ROOT), (
        "configs/ or results/ have changed: python -m experiments.plot --ledger"
    )


def test_every_command_can_be_run():
    commands = re.findall(
        r"`python -m experiments\.train (.*?)`", (ROOT / REPRODUCTION_FILE).read_text()
    )
    assert len(commands) >= 26
    for command in set(commands):
        _, config_file, *rest = command.split()
        overrides = [argument for argument in rest if argument.startswith("--config.")]
        config = launch.parse_config(str(ROOT / config_file), overrides)
        norm_act(config.model.norm_act, **config.model.norm_act_fields.to_dict())
        names = ("imagenet_", "biggan_deep_imagenet128_", "coco_")
        assert (ROOT / config_file).stem.startswith(names)


def test_what_has_no_result_is_not_run(repository):
    text = reproduction(repository)
    train = "`python -m experiments.train --config configs/imagenet_r50"
    assert lines(text, "| ResNet-50 | EvoNorm-B0 |") == [
        f"| ResNet-50 | EvoNorm-B0 | 77.8 | not run | {train}_evonorm_b0.py` |"
    ]
    # A layer without a config of its own takes the place of B0.
    assert f"{train}_evonorm_b0.py --config.model.norm_act=evonorm_b1 --workdir" in text
    assert len(lines(text, "| EfficientNet-B5 |", "no config of this network")) == 9
    count = 6 * 9 + 2 * 4 + 6 + 1 + 2  # other records and claims
    assert len(lines(text, "not run")) == count
    assert lines(text, "| BN-ReLU | 76.1 | 76.2 | 76.1 | 75.6 | 74.3 | 70.7 |")
    assert len(lines(text, "Not run here.")) == 2  # the sweeps of Table 3
    assert "configs/sweeps/imagenet_r50_batch_size.py" in text


def test_recorded_runs_stand_beside_the_papers_numbers(repository):
    r50 = {"dataset": "imagenet2012", "source": "tfds", "model": "resnet50", "num_workers": 8}
    record(repository, "r50", **r50)
    text = reproduction(repository)
    assert lines(text, "| BN-ReLU | 8 |") == [
        "| BN-ReLU | 8 | [96.0 ± 1.0](../results/r50) (3 of 3 seeds) | 2 x ACME 3000 | 2026-01-02 "
        "| `0123456` |"
    ]
    assert not lines(text, "| BN-ReLU | 16 |")
    assert len(lines(text, "Not run here.")) == 1  # MobileNetV2


@pytest.mark.parametrize("other", [{"source": "fake"}, {"num_workers": 4}])
def test_runs_of_another_setting_do_not_count(repository, other):
    r50 = {"dataset": "imagenet2012", "source": "tfds", "model": "resnet50", "num_workers": 8}
    record(repository, "r50", **{**r50, **other})
    text = reproduction(repository)
    assert len(lines(text, "Not run here.")) == 2
    assert not lines(text, "| BN-ReLU | 8 |")


def test_other_data_sets_have_a_table_of_their_own(repository):
    record(repository, "digits")
    (repository / "results" / "by_hand").mkdir()
    (repository / "results" / "by_hand" / "README.md").write_text("# A record in prose\n")
    text = reproduction(repository)
    (bn,) = lines(text, "[The sweep digits](../results/digits) | BN-ReLU |")
    result = "96.0 ± 1.0 % at 8, 80.0 ± 1.0 % at 2 images per worker; 3 seeds"
    assert f"| {result} | 2 x ACME 3000 | 2026-01-02 | `0123456` |" in bn
    assert lines(text, "[A record in prose](../results/by_hand)")


def test_a_report_is_a_record(repository):
    runs = repository / "runs"
    write_run(runs, "bn_relu", 8, 0, 0.9)
    write_sweep_report(runs, repository / "results" / "digits")
    title = "Accuracy by layer: digits"
    assert lines(reproduction(repository), f"[{title}](../results/digits)", "90.0 % at 8")


def test_claims_without_a_table_are_set_against_what_was_measured(repository):
    runs = repository / "runs"
    for layer, loss, top1 in (("bn_relu", 0.9, 0.7), ("evonorm_b0", 1.1, 0.72)):
        path = write_run(runs, layer, 8, 0, top1) / "metrics.jsonl"
        path.write_text(path.read_text() + event(20, **{"train/loss": loss}) + "\n")
    assert lines(
        reproduction(repository),
        "| ResNet-50, as others report it: EvoNorm-B0 has",
        "| not run |  |",
    )
    write_sweep_report(runs, repository / "results" / "digits")
    scored = repository / "results" / "search" / "random_layers" / "scored.csv"
    scored.parent.mkdir(parents=True)
    rows = ["steps,wide,deep,graph", "9,10,10.2,a", "9,10,11.9,b", "9,20,40,c", "9,30,35,d"]
    scored.write_text("\n".join(rows) + "\n")
    text = reproduction(repository)
    assert lines(
        text, "| loss 1.100 against 0.900, accuracy +2.0 points; 1 seed |", "results/digits)"
    )
    # Ranks 1.5, 1.5, 3, 4 and 1, 2, 4, 3: 3.5 over the root of 4.5 times 5.
    numbers = (
        "| 2 of 4 are below 12 % in every network; rank correlation between two networks 0.74 to "
        "0.74, among the other 2 -1.00 to -1.00 ("
    )
    assert lines(text, numbers, "| [random layers](../results/search/random_layers) |")


def test_random_layers_of_one_network_and_damaged_tables(repository):
    scored = repository / "results" / "search" / "random_layers" / "scored.csv"
    scored.parent.mkdir(parents=True)
    scored.write_text("steps,wide,graph\n9,10,a\n9,30,b\n")
    numbers = (
        "| 1 of 2 are below 12 % in every network; rank correlation between two networks unknown"
    )
    assert lines(reproduction(repository), numbers, "among the other 1 unknown (")
    for damaged in ("steps,wide,graph\n", "wide,deep\n10,20\n"):
        scored.write_text(damaged)
        with pytest.raises(UserError, match=r"scored.csv' must have a row for each layer"):
            reproduction(repository)


def test_recorded_detectors_stand_beside_table_4(repository):
    fields = {"dataset": "coco2017", "source": "coco_json", "model": "maskrcnn_r50_fpn"}
    runs = write_sweep_of_masks(repository / "runs" / "coco", **fields)
    output = repository / "results" / "coco"
    output.mkdir(parents=True)
    write_results(load_sweep(runs), output / "results.csv")
    (output / "README.md").write_text("# Detectors\n")
    text = reproduction(repository)
    (line,) = lines(text, "| ResNet-50-FPN | BN-ReLU | 42.1 | 37.8 |")
    assert "| [96.0 ± 1.0](../results/coco) (3 of 3 seeds), 2 x ACME 3000, 2026-01-02" in line
    assert lines(text, "| ResNet-101-FPN | BN-ReLU |", "not run")
    assert not lines(text, "[Detectors]")  # nor among the sets without numbers in the paper


def write_sweep_of_masks(root, **fields):
    """The sweep of `write_sweep` with the metrics of instance segmentation."""
    write_sweep(root, **fields)
    for path in root.rglob("*.json*"):
        path.write_text(path.read_text().replace("eval/top1", "eval/mask_ap"))
    for path in root.rglob("metadata.json"):
        metrics = instance_segmentation_metrics((1, 10, 100)).to_json()
        path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": metrics}))
    return root
