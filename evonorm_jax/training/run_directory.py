"""A run directory: whose it is, and the files that say how it was made.

`config.json` (resolved), `metadata.json` (what the metrics mean; versions, commit, devices and
command of every start), `classes.json` (of tasks that have classes: their names, and how images are
prepared), `summary.json` once the run is finished. Metrics and checkpoints have files
of their own: `writers.py`, `checkpoint.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from evonorm_jax.errors import UserError
from evonorm_jax.input_files import some
from evonorm_jax.provenance import command, git_commit, now, versions
from evonorm_jax.run_files import (
    CLASSES_FILE,
    CONFIG_FILE,
    METADATA_FILE,
    SUMMARY_FILE,
    as_json,
    read_json,
    read_json_or_empty,
    write_json,
)
from evonorm_jax.run_lock import lock_run
from evonorm_jax.training.config import complete
from evonorm_jax.training.fit_to_data import prepare

if TYPE_CHECKING:
    import ml_collections

    from evonorm_jax.training.experiment import Experiment

# A run may go on with other values of these: they change what is seen of it, not what it computes.
OPERATIONAL_FIELDS = (
    "log_every_steps",
    "eval_every_epochs",
    "eval_batch_size",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "keep_best_checkpoint",
    "profile_start_step",
    "profile_steps",
    "tensorboard",
    "metric_writers",
    "dataset.path",
    "dataset.prefetch",
    "dataset.num_parallel_calls",
    "figures.network",
    "figures.num_samples",
    "figures.reference",
)


# The fields that say how long a run is: `--extend` lets them differ.
LENGTH_FIELDS = ("num_epochs", "num_steps", "early_stopping_patience")


def open_run_directory(workdir: Path, run: Experiment, *, first_process: bool) -> None:
    """Creates the run directory, or adds this start to the one that is there.

    Raises:
      UserError: It cannot be written.
    """
    if not first_process:
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / CONFIG_FILE, as_json(run.config.to_dict()))
        if (classes := run.task.classes()) is not None:
            write_json(workdir / CLASSES_FILE, classes)
        _append_metadata(workdir, run)
    except OSError as error:
        raise UserError(
            f"The run directory {workdir} cannot be written ({error.strerror or error}). Choose "
            "another with --workdir."
        ) from error


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the lock of the run directory; of several processes, the first holds it for all.

    Raises:
      UserError: Another run has it; in every process.
    """
    with contextlib.ExitStack() as stack:
        refused: UserError | None = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(lock_run(workdir))
            except UserError as error:
                refused = error
        if jax.process_count() > 1:
            all_refused = multihost_utils.broadcast_one_to_all(np.int32(refused is not None))
            if all_refused and refused is None:
                refused = UserError(f"{workdir} is in use; process 0 says by whom.")
        if refused is not None:
            raise refused
        yield


def check_owner(workdir: Path, config: ml_collections.ConfigDict, *, extend: bool = False) -> None:
    """Refuses a folder that holds something else than a run of this config; changes nothing.

    Args:
      workdir: The run directory, which need not be there.
      config: The resolved config.
      extend: Whether there must be a run, whose length may differ.

    Raises:
      UserError: It does; the message names the fields that differ.
    """
    if ":/" in str(workdir):
        raise UserError(
            f"--workdir={workdir}: a bucket cannot be written directly. Mount it (for example with "
            "gcsfuse) and give the folder."
        )
    if extend and not (workdir / CONFIG_FILE).exists():
        raise UserError(f"--extend: there is no run in {workdir}; start one without --extend.")
    if not workdir.exists():
        return
    if not workdir.is_dir():
        raise UserError(
            f"--workdir={workdir} is a file. Choose a folder, new or of an earlier run."
        )
    if not (workdir / CONFIG_FILE).exists():
        strangers = sorted(p.name for p in workdir.iterdir() if not p.name.startswith("."))
        if strangers:
            raise UserError(
                f"{workdir} is not empty and not a run directory (no {CONFIG_FILE}; there is "
                f"{strangers[0]}). Choose another --workdir."
            )
        return
    from ml_collections import ConfigDict  # here, because benchmarks run where it is missing

    saved = ConfigDict(_read_config_file(workdir / CONFIG_FILE))
    config = prepare(complete(config), workdir)
    saved, wanted = (flatten(as_json(c.to_dict())) for c in (complete(saved), config))
    absent = "(absent)"
    may_differ = (*OPERATIONAL_FIELDS, *(LENGTH_FIELDS if extend else ()))
    differing = [
        name
        for name in sorted(set(saved) | set(wanted))
        if name not in may_differ and saved.get(name, absent) != wanted.get(name, absent)
    ]
    if differing:
        remedy = "Go on with the config it was started with"
        if set(differing) <= set(LENGTH_FIELDS):
            remedy += ", make that run longer with --extend"
        values = (
            f"  {name}: {saved.get(name, absent)!r} there, {wanted.get(name, absent)!r} here\n"
            for name in differing
        )
        raise UserError(
            f"{workdir} belongs to a run with another config; the fields that differ:\n"
            f"{''.join(values)}{remedy}, or choose another --workdir."
        )


def check_classes(workdir: Path, classes: dict[str, Any] | None) -> None:
    """Refuses data with other classes than those that a run has learned; changes nothing.

    The labels are places in the sorted names: one folder that is renamed may shift all of them.

    Args:
      workdir: The run directory; where it names no classes, all are taken.
      classes: What the task says of the classes of the data.

    Raises:
      UserError: The names differ, or their order.
    """
    theirs = read_json_or_empty(workdir / CLASSES_FILE).get("class_names")
    ours = (classes or {}).get("class_names")
    if not (ours and isinstance(theirs, list)) or theirs == ours:
        return
    missing = [str(name) for name in theirs if name not in ours]
    new = [name for name in ours if name not in theirs]
    differing = [
        f"{some(names)} {what}" for names, what in ((missing, "gone"), (new, "new")) if names
    ]
    raise UserError(
        f"The data have other classes than the run in {workdir} ({CLASSES_FILE}): "
        f"{', '.join(differing) or 'the same in another order'}. Name data with the classes of the "
        "run, by the same names, or train in another --workdir."
    )


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """Reads the config that a run directory was made with, complete with the fields of today.

    Raises:
      UserError: There is none.
    """
    from ml_collections import ConfigDict  # here, because benchmarks run where it is missing

    path = Path(workdir) / CONFIG_FILE
    if not os.path.exists(path):  # of a name that is too long a Path would raise
        what = f"is not a run directory: it has no {CONFIG_FILE}"
        if not os.path.isdir(workdir):
            what = "is a file and no run directory" if os.path.exists(workdir) else "is not there"
        raise UserError(f"{workdir} {what}. Name the --workdir of a run of experiments.train.")
    return complete(ConfigDict(_read_config_file(path)))


def _read_config_file(path: Path) -> dict[str, Any]:
    """Reads `config.json`; what is no config is refused, and the message says where a copy is."""
    remedy = "Every checkpoint holds a copy: checkpoints/<step>/config/metadata."
    try:
        saved = read_json(path)
    except UserError as error:
        raise UserError(f"{error} {remedy}") from None
    if missing := {"model", "dataset", "seed", "dtype"} - saved.keys():
        raise UserError(
            f"{path} is not the configuration of a run: it has no {', '.join(sorted(missing))}. "
            f"{remedy}"
        )
    for block in ("model", "dataset", "optimizer", "schedule"):
        if not isinstance(saved.get(block, {}), dict):
            raise UserError(
                f"{path} is not the configuration of a run: its {block} is {saved[block]!r}. "
                f"{remedy}"
            )
    return saved


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Brings nested dictionaries to one level.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def write_summary(workdir: Path, summary: dict[str, Any]) -> None:
    """Marks the run as finished, with its last metrics."""
    write_json(workdir / SUMMARY_FILE, summary)


def drop_summary(workdir: Path) -> None:
    """Marks a finished run as one that goes on."""
    (workdir / SUMMARY_FILE).unlink(missing_ok=True)


def _append_metadata(workdir: Path, run: Experiment) -> None:
    """Adds this start, with the durations and the layout it resolved, to `metadata.json`."""
    path = workdir / METADATA_FILE
    starts = read_json_or_empty(path).get("starts")
    if path.exists() and not isinstance(starts, list):
        # It describes the run, which goes on without; who wants to mend it finds it.
        damaged = path.with_name(f"{path.name}.damaged")
        path.replace(damaged)
        logging.warning("%s is damaged: it is kept as %s, and begun anew", path, damaged.name)
    starts = starts if isinstance(starts, list) else []
    devices = run.parallel.devices
    starts.append(
        {
            "time": now(),
            "command": command(),
            "commit": git_commit(),
            "versions": versions(("jax", "jaxlib", "flax", "optax")),
            "devices": f"{len(devices)} x {devices[0].device_kind}",
            "processes": jax.process_count(),
            "resolved": dataclasses.asdict(run.layout)
            | dataclasses.asdict(run.durations)
            | {f"peak_{name}": rate for name, rate in run.task.peak_rates.items()},
        }
    )
    write_json(path, {"metrics": run.task.metrics.to_json(), "starts": starts})
