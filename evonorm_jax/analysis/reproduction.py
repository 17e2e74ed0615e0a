"""The reproduction, line by line: the paper's numbers, our commands, our numbers.

`docs/reproduction.md` is made of `configs/` and `results/` alone, so that it cannot say more than
they do; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from evonorm_jax.analysis import paper
from evonorm_jax.analysis.claims import claims
from evonorm_jax.analysis.records import Recorded, read_recorded
from evonorm_jax.analysis.runs import layer_label
from evonorm_jax.analysis.sweep_report import short_commit
from evonorm_jax.analysis.sweep_tables import (
    NOT_RUN,
    format_seeds,
    format_statistic,
    markdown_table,
)
from evonorm_jax.analysis.sweeps import Sweep, SweepRun

REPRODUCTION_FILE = "docs/reproduction.md"

# How config files call the networks of the paper's tables, and the paper itself.
_MODELS = {
    "resnet50": ("r50", "ResNet-50"),
    "resnet101": ("r101", "ResNet-101"),
    "mobilenet_v2": ("mobilenet_v2", "MobileNetV2"),
    "mnasnet_b1": ("mnasnet_b1", "MnasNet-B1"),
    "efficientnet_b0": ("efficientnet_b0", "EfficientNet-B0"),
    "efficientnet_b5": ("efficientnet_b5", "EfficientNet-B5"),
}
_SYNTHESIS_CONFIGS = "biggan_deep_imagenet128"
_DETECTORS = {"maskrcnn_r50_fpn": "ResNet-50-FPN", "maskrcnn_r101_fpn": "ResNet-101-FPN"}
_OURS = ["here", "hardware", "date", "commit"]


def write_reproduction(root: Path) -> Path:
    """Writes `docs/reproduction.md` of the repository at `root`."""
    path = root / REPRODUCTION_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(reproduction(root), encoding="utf-8")
    return path


def reproduction(root: Path) -> str:
    """Returns it as Markdown, made of `configs/` and `results/` below `root`."""
    recorded = read_recorded(root / "results")
    parts = [
        "# Reproduction",
        "The paper's tables line by line: its number, the command that runs ours, and what came "
        "out where it was run here. Nothing is estimated. `python -m experiments.plot --ledger` "
        "writes this page from `configs/` and `results/`.",
        "The paper's numbers are those of arXiv:2004.02967v1: ImageNet top-1 and COCO's average "
        "precision in percent, of one run each as far as it says, and Table 5's own measures.",
        "## Table 2: layers with batch statistics",
        _table_2(root / "configs", recorded),
        "## Table 3: accuracy against images per worker",
    ]
    for model in paper.BATCH_SIZE:
        parts += _table_3(root / "configs", model, recorded)
    parts += [
        "## Table 4: Mask R-CNN on COCO",
        "Average precision of boxes and masks on val2017. The paper's schedule is in no public "
        "text; [detection.md](detection.md) says what is known and what is our choice.",
        _table_4(root / "configs", recorded),
        "## Table 5: image synthesis",
        "BigGAN-deep on ImageNet at 128 pixels, the layer in the generator; Inception Score "
        "(higher is better) and FID (lower is better), median / best of three seeds where two "
        "numbers stand. One run is 150,000 steps of 2,048 images, 1.1e20 operations: see "
        "[synthesis.md](synthesis.md).",
        _table_5(root / "configs", recorded),
        "## Data sets without numbers in the paper",
        "On CIFAR-10 the paper searches for layers and reports no accuracy of trained networks; "
        "the other data sets are ours. These records show whether its claims hold there.",
        _other_records(recorded),
        "## Claims without a table in the paper",
        claims(root / "results", recorded),
    ]
    return "\n\n".join(parts) + "\n"


def _table_2(configs: Path, recorded: Iterable[Recorded]) -> str:
    rows = []
    for model, lines in paper.IMAGENET.items():
        name, title = _MODELS[model]
        for norm_act, number in lines.items():
            command = _train_command(configs, name, norm_act)
            ours = _in_one_cell(_our_cells(recorded, model, None, norm_act, 128))
            rows.append([title, layer_label(norm_act), f"{number:.1f}", ours, command])
    return markdown_table(["network", "layer", "paper", "here", "command"], rows)


def _train_command(configs: Path, model: str, norm_act: str) -> str:
    """Returns the command of a layer's config, or of EvoNorm-B0's with the layer exchanged.

    B0 because its configs set no fields of the layer, which another one might not have.
    """
    train = "python -m experiments.train --config configs"
    if (configs / (own := f"imagenet_{model}_{norm_act}.py")).exists():
        return f"`{train}/{own}`"
    if (configs / (other := f"imagenet_{model}_evonorm_b0.py")).exists():
        workdir = f"runs/imagenet_{model}_{norm_act}"
        return f"`{train}/{other} --config.model.norm_act={norm_act} --workdir {workdir}`"
    return "no config of this network"


def _table_4(configs: Path, recorded: Iterable[Recorded]) -> str:
    rows = []
    for model, lines in paper.COCO.items():
        for norm_act, number in lines.items():
            config = f"coco_{model}_{norm_act}.py"
            command = "no config of this network"
            if (configs / config).exists():
                command = f"`python -m experiments.train --config configs/{config}`"
            values = [f"{number.box_ap:.1f}", f"{number.mask_ap:.1f}"]
            cells = _our_cells(recorded, model, None, norm_act, 8, belongs=_is_coco)
            ours = _in_one_cell(cells)
            rows.append([_DETECTORS[model], layer_label(norm_act), *values, ours, command])
    header = ["network", "layer", "paper: box AP", "paper: mask AP", "here: mask AP", "command"]
    return markdown_table(header, rows)


def _table_3(configs: Path, model: str, recorded: Iterable[Recorded]) -> list[str]:
    name, title = _MODELS[model]
    workers = paper.BATCH_SIZE_WORKERS[model]
    config = configs / "sweeps" / f"imagenet_{name}_batch_size.py"
    command = "There is no config for it yet."
    if config.exists():
        command = (
            f"`python -m experiments.sweep --config configs/sweeps/{config.name} "
            f"--workdir runs/{config.stem}`"
        )
    sizes = paper.BATCH_SIZE_IMAGES_PER_WORKER
    published, ours = [], []
    for norm_act, numbers in paper.BATCH_SIZE[model].items():
        label = layer_label(norm_act)
        published.append([label, *(f"{number:.1f}" for number in numbers)])
        for size in sizes:
            number, *circumstances = _our_cells(recorded, model, workers, norm_act, size)
            if number != NOT_RUN:
                ours.append([label, str(size), number, *circumstances])
    return [
        f"### {title}, {workers} workers",
        command,
        "The paper's accuracy by images per worker:",
        markdown_table(["layer", *map(str, sizes)], published),
        markdown_table(["layer", "images per worker", *_OURS], ours) if ours else "Not run here.",
    ]


def _table_5(configs: Path, recorded: Iterable[Recorded]) -> str:
    rows = []
    for norm_act, numbers in paper.IMAGE_SYNTHESIS.items():
        config = configs / f"{_SYNTHESIS_CONFIGS}_{norm_act}.py"
        command = f"`python -m experiments.train --config configs/{config.name}`"
        cells = [
            _in_one_cell(_our_fid(recorded, norm_act)),
            command if config.exists() else "no config of this layer",
        ]
        rows.append([layer_label(norm_act), *numbers, *cells])
    return markdown_table(["layer", "Inception Score", "FID", "here", "command"], rows)


def _our_fid(recorded: Iterable[Recorded], norm_act: str) -> list[str]:
    """Returns our FID on ImageNet, hardware and commit; "not run" without a finished run."""
    for record in recorded:
        sweep = record.sweep
        if sweep is None or sweep.metrics.main_name != "fid" or not _reads_imagenet(sweep):
            continue
        layer = sweep.find(norm_act)
        runs = [run for run in sweep.runs if run.layer == layer and run.score is not None]
        if runs:
            mean = sum(run.score for run in runs if run.score is not None) / len(runs)
            number = f"[FID {mean:.2f}](../results/{record.folder}) ({len(runs)} seeds)"
            return [number, *_circumstances(runs)]
    return [NOT_RUN, "", "", ""]


def _our_cells(
    recorded: Iterable[Recorded],
    model: str,
    workers: int | None,
    norm_act: str,
    size: int,
    *,
    belongs: Callable[[Sweep], bool] | None = None,
) -> list[str]:
    """Returns our number, hardware and commit; "not run" without a finished run.

    Args:
      recorded: What there is.
      model: Registered name of the network.
      workers: Their number; None for any.
      norm_act: Registered name of the layer.
      size: Images per worker.
      belongs: Whether a sweep measures what the table does; by default ImageNet's top-1.
    """
    belongs = belongs or _is_imagenet
    for record in recorded:
        sweep = record.sweep
        if sweep is None or sweep.setting.model != model or not belongs(sweep):
            continue
        if workers not in (None, sweep.setting.num_workers):
            continue
        layer = sweep.find(norm_act)
        runs = [
            run
            for run in sweep.runs
            if (run.layer, sweep.size(run)) == (layer, size) and run.score is not None
        ]
        if runs:
            statistic = sweep.statistic(runs[0].layer, size)
            spread = "" if statistic.spread is None else f" ± {statistic.spread:.1f}"
            seeds = f" ({statistic.finished} of {statistic.expected} seeds)"
            number = f"[{statistic.mean:.1f}{spread}](../results/{record.folder}){seeds}"
            return [number, *_circumstances(runs)]
    return [NOT_RUN, "", "", ""]


def _in_one_cell(cells: Sequence[str]) -> str:
    """Joins a number and its circumstances for tables that have no room for four columns."""
    return ", ".join(cell for cell in cells if cell)


def _is_imagenet(sweep: Sweep) -> bool:
    return _reads_imagenet(sweep) and sweep.has_papers_metric


def _reads_imagenet(sweep: Sweep) -> bool:
    return sweep.setting.dataset == "imagenet2012" and sweep.setting.source != "fake"


def _is_coco(sweep: Sweep) -> bool:
    setting = sweep.setting
    real = setting.dataset == "coco2017" and setting.source == "coco_json"
    return real and sweep.metrics.main_name == "mask_ap"


def _circumstances(runs: Sequence[SweepRun]) -> list[str]:
    """Returns hardware, date and commit of the last of the runs."""
    last = max(runs, key=lambda run: run.date)
    return [last.hardware, last.date, short_commit(last.commit)]


def _other_records(recorded: Iterable[Recorded]) -> str:
    rows = []
    for record in recorded:
        link = f"[{record.title}](../results/{record.folder})"
        if (sweep := record.sweep) is None:
            rows.append([link, "", "see the record", "", "", ""])
        elif not (_is_imagenet(sweep) or _is_coco(sweep)):
            metric = sweep.metrics.main
            unit = f" {metric.unit}".rstrip()
            for layer in sweep.layers:
                ends = [
                    f"{format_statistic(statistic, metric)}{unit} at {size:,}"
                    for size in dict.fromkeys((sweep.sizes[0], sweep.sizes[-1]))
                    if (statistic := sweep.statistic(layer, size)).mean is not None
                ]
                runs = [run for run in sweep.runs if run.layer == layer]
                seeds = format_seeds(len(sweep.seeds))
                result = f"{', '.join(ends)} {sweep.axis.label}; {seeds}" if ends else NOT_RUN
                cells = [sweep.layer_label(layer), result]
                rows.append([link, *cells, *_circumstances(runs)])
    header = ["record", "layer", *_OURS]
    return markdown_table(header, rows) if rows else NOT_RUN
