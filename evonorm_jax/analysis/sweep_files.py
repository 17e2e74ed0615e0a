"""A sweep read from its folder: the run directories, finished or not, and its history."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from evonorm_jax.analysis.runs import Run, load_run
from evonorm_jax.analysis.sweeps import Setting, Sweep, SweepRun
from evonorm_jax.errors import UserError
from evonorm_jax.metrics import RunMetrics, metrics_of_run
from evonorm_jax.run_files import (
    CONFIG_FILE,
    METADATA_FILE,
    SWEEP_FILE,
    is_number,
    read_json,
    read_json_lines,
    read_json_or_empty,
)

_WHOLE_NUMBERS = ("seed", "num_workers", "images_per_worker", "num_steps")
# What the report says of the last start of a run; all of it is text.
_OF_A_START = ("time", "commit", "devices")


def is_sweep(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is no run itself but holds runs below it."""
    path = Path(path)
    return not (path / CONFIG_FILE).exists() and next(path.rglob(CONFIG_FILE), None) is not None


def load_sweep(path: str | os.PathLike[str]) -> Sweep:
    """Reads all runs below a folder, whatever state they are in.

    A run without a whole config is left out, and the log says so.

    Raises:
      UserError: There are none with a whole config, or they do not belong to one sweep.
    """
    runs, curves = [], []
    configs = read_configs(path)
    shared_batch = _shared_batch(configs.values())
    settings: dict[tuple[Setting, str], Path] = {}  # the first folder that has it
    machines = {event["machine"] for event in read_history(Path(path)) if "machine" in event}
    machine = machines.pop() if len(machines) == 1 else ""
    for folder, config in configs.items():
        metadata = folder / METADATA_FILE
        about = read_json(metadata) if metadata.exists() else {}
        try:
            metrics = metrics_of_run(about, config)
        except UserError as error:
            raise UserError(f"'{folder}': {error}") from None
        settings.setdefault((_setting(config, shared_batch), metrics.main.axis_label), folder)
        try:
            curve = load_run(folder)
        except UserError:  # started, nothing measured yet
            curve = None
        runs.append(_sweep_run(config, _last_start(metadata, about), metrics, curve, machine))
        if curve is not None:
            curves.append(curve)
    if len(settings) > 1:
        ((one, metric), first), ((other, other_metric), second), *_ = settings.items()
        has = (one, other) if one != other else (metric, other_metric)
        raise UserError(
            f"'{path}' holds runs of different settings: {first} has {has[0]}, {second} has "
            f"{has[1]}. "
            "Give the folder of one sweep."
        )
    setting, _ = next(iter(settings))
    return Sweep(setting, runs, metrics, curves)


def run_layer(config: Mapping[str, Any]) -> str:
    """Returns registered name and fields of the layer of a run: `gn_relu,group_size=8`."""
    return _with_fields(config["model"]["norm_act"], config["model"].get("norm_act_fields", {}))


def read_configs(path: str | os.PathLike[str]) -> dict[Path, dict[str, Any]]:
    """Reads the config of every run below a folder, by the run directory.

    A run whose config is damaged or is not one of a training run is left out. The log says, once,
    how many were left out.

    Raises:
      UserError: There are no runs, or none of them has a whole config.
    """
    folders = sorted(config.parent for config in Path(path).rglob(CONFIG_FILE))
    if not folders:
        raise UserError(f"'{path}' holds no runs; give the --workdir of experiments.sweep.")
    configs = {folder: read_json_or_empty(folder / CONFIG_FILE) for folder in folders}
    reasons = {folder: reason for folder in folders if (reason := _fault(configs[folder]))}
    if not reasons:
        return configs
    first, reason = next(iter(reasons.items()))
    if len(reasons) == len(configs):
        raise UserError(
            f"'{path}' holds no run of a sweep: in '{first / CONFIG_FILE}' {reason}. Give the "
            "--workdir of experiments.sweep."
        )
    logging.warning(
        "%d of %d runs below %s are left out, because their %s is damaged or foreign; the first "
        "is %s, where %s",
        len(reasons),
        len(configs),
        path,
        CONFIG_FILE,
        first,
        reason,
    )
    return {folder: config for folder, config in configs.items() if folder not in reasons}


def read_history(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the events of `sweep.jsonl`; none where the runs were started one by one.

    Lines that are no whole start or end of a sweep are left out.
    """
    lines = read_json_lines(Path(path) / SWEEP_FILE)
    return [line.row for line in lines if line.row is not None and _is_sweep_event(line.row)]


def _shared_batch(configs: Iterable[Mapping[str, Any]]) -> int:
    """Returns the images of a step if more or fewer workers share them; 0 for equal workers."""
    layouts = {(c["num_workers"], c["num_workers"] * c["images_per_worker"]) for c in configs}
    workers, batches = map(set, zip(*layouts, strict=True))
    return batches.pop() if len(workers) > 1 and len(batches) == 1 else 0


def _setting(config: Mapping[str, Any], shared_batch: int) -> Setting:
    return Setting(
        dataset=config["dataset"]["name"],
        source=config["dataset"]["source"],
        model=_with_fields(config["model"]["name"], config["model"].get("fields", {})),
        num_workers=0 if shared_batch else config["num_workers"],
        num_epochs=config["num_epochs"],
        batch_size=shared_batch,
    )


def _last_start(path: Path, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the last start of a run noted of itself; what is damaged is left out."""
    starts = metadata.get("starts") or [{}]
    last = starts[-1] if isinstance(starts, list) else None
    start = last if isinstance(last, dict) else {}
    texts = {name: start[name] for name in _OF_A_START if isinstance(start.get(name), str)}
    foreign = [name for name in _OF_A_START if name not in texts and start.get(name) is not None]
    if foreign or start is not last:
        logging.warning("%s: 'starts' is damaged, and the report leaves out what it said", path)
    return texts


def _sweep_run(
    config: Mapping[str, Any],
    last_start: Mapping[str, str],
    metrics: RunMetrics,
    curve: Run | None,
    machine: str,
) -> SweepRun:
    devices = last_start.get("devices", "")
    summary = (curve.summary if curve is not None else None) or {}
    score = summary.get(metrics.main_metric)
    others = {name: summary.get(f"{metrics.main_part}/{name}") for name in metrics.reported}
    losses = curve.series.get("train/loss") if curve is not None and summary else None
    done = max((int(s[0][-1]) for s in curve.series.values()), default=0) if curve else 0
    return SweepRun(
        layer=run_layer(config),
        images_per_worker=config["images_per_worker"],
        seed=config["seed"],
        steps=summary.get("steps", done),
        num_steps=config.get("num_steps", 0),
        score=None if score is None else metrics.main.factor * score,
        others={name: value for name, value in others.items() if value is not None},
        examples=summary.get(f"{metrics.main_part}/examples", summary.get("eval/examples")),
        train_loss=None if losses is None else float(losses[2][-1]),
        train_seconds=summary.get("train_seconds"),
        date=last_start.get("time", "")[:10],
        commit=last_start.get("commit", ""),
        # "1 x cpu" says nothing of the machine; the sweep has noted its processors.
        hardware=machine if machine and devices.endswith(" cpu") else devices,
    )


def _with_fields(name: str, fields: Mapping[str, Any]) -> str:
    return ",".join([name, *(f"{field}={value}" for field, value in sorted(fields.items()))])


def _fault(config: Mapping[str, Any]) -> str:
    """Returns what keeps a config from being that of a run, such as "'seed' is missing"; or ""."""
    for name in ("model", "dataset"):
        if not isinstance(config.get(name), Mapping):
            return f"the block '{name}' is missing"
    run = {"num_steps": 0, **config}
    model = {"fields": {}, "norm_act_fields": {}, **config["model"]}
    return (
        _wrong_field(run, _WHOLE_NUMBERS, _is_whole, "a whole number")
        or _wrong_field(run, ("num_epochs",), is_number, "a number")
        or _wrong_field(config["dataset"], ("name", "source"), _is_text, "a text")
        or _wrong_field(model, ("name", "norm_act"), _is_text, "a text")
        or _wrong_field(model, ("fields", "norm_act_fields"), _is_block, "a block")
    )


def _wrong_field(
    block: Mapping[str, Any], names: Iterable[str], holds: Callable[[Any], bool], kind: str
) -> str:
    """Returns what is wrong with the first field that is not of its kind, or ""."""
    for name in names:
        if name not in block:
            return f"'{name}' is missing"
        if not holds(block[name]):
            return f"'{name}' is not {kind}"
    return ""


def _is_whole(value: Any) -> bool:
    return type(value) is int and is_number(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_block(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_sweep_event(row: Mapping[str, Any]) -> bool:
    """Whether a row says what `record_event` notes of a start or an end."""
    if row.get("event") == "end":
        return is_number(row.get("seconds"))
    command = row.get("command")
    return (
        row.get("event") == "start"
        and isinstance(command, list)
        and all(isinstance(word, str) for word in command)
        and isinstance(row.get("config"), str)
        and _is_whole(row.get("jobs"))
        and isinstance(row.get("machine", ""), str)
    )
