"""What the folder of a sweep holds: the configs of its runs, and its history."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from evonorm_jax.errors import UserError
from evonorm_jax.run_files import (
    CONFIG_FILE,
    SWEEP_FILE,
    is_number,
    read_json_lines,
    read_json_or_empty,
)

_WHOLE_NUMBERS = ("seed", "num_workers", "images_per_worker", "num_steps")


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
