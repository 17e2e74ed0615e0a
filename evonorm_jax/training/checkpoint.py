"""Checkpoints by orbax: state, data position and configuration, written whole or not at all.

Arrays are saved as one plain replica in NumPy, so a checkpoint does not know how many devices or
hosts wrote it. orbax writes into a temporary folder and renames it, so a kill at any moment leaves
the last finished checkpoint in place; the data position is the step alone, because batches are
pure functions of (seed, step). Nothing is read of a checkpoint that does not match its checksums
(`checksums.py`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from evonorm_jax.errors import UserError
from evonorm_jax.training.checksums import (
    DATA_FIELD,
    ChecksummedPath,
    find_damage,
    has_checksums,
)
from evonorm_jax.training.parallel import to_host

# The one collection that states had beside `params` before they kept all of a network's.
_EARLIER_COLLECTION = "batch_stats"

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    import ml_collections


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
      workdir: The run directory; checkpoints lie in `workdir/checkpoints/<step>`.
      keep: How many of the newest are kept.
      keep_also: Gives the step of one more that is kept, or None.
      read_only: Whether nothing is ever created or deleted.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        keep: int = 2,
        keep_also: Callable[[], int | None] = lambda: None,
        read_only: bool = False,
    ):
        self.directory = Path(workdir).absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else _NewestAndOne(keep, keep_also),
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            temporary_path_class=ChecksummedPath,
        )
        self._read_only = read_only
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=options,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(),
                "config": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finishes what is being saved.

        Raises:
          UserError: It cannot be written.
        """
        with self._writing():
            self._manager.close()

    @property
    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, the oldest first."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """Step of the newest finished checkpoint, damaged or not; None where there is none."""
        return self._manager.latest_step()

    def save(
        self,
        state: Any,
        config: ml_collections.ConfigDict,
        *,
        train_seconds: float = 0.0,
        running: Mapping[str, Any] | None = None,
    ) -> None:
        """Saves a state at its own step, in the background; a step that is there stays as it is.

        Args:
          state: The state, replicated.
          config: Config of the run.
          train_seconds: Seconds of training behind it.
          running: The running sums of the next row of the log (`NonFiniteGuard.running_sums`).

        Raises:
          UserError: This checkpoint or the one before cannot be written.
        """
        host_state = to_host(state)
        step = int(host_state.step)
        if step == self.latest_step:
            return
        data = {
            "step": step,
            "seed": config.seed,
            "train_seconds": train_seconds,
            "running": dict(running or {}),
            DATA_FIELD: True,
        }
        with self._writing():
            if not self.directory.is_dir():  # orbax would make a new one, without the rest
                raise FileNotFoundError(errno.ENOENT, "the folder has been removed")
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(host_state),
                    data=ocp.args.JsonSave(data),
                    config=ocp.args.JsonSave(config.to_dict()),
                ),
                force=True,
            )

    def wait(self) -> None:
        """Waits until everything that was asked for is on disk.

        Raises:
          UserError: It cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def restore(
        self, like: Any, step: int | None = None, *, leave_out: tuple[str, ...] = ()
    ) -> tuple[Any, float]:
        """Reads a checkpoint as NumPy arrays, and the seconds of training behind it.

        Args:
          like: A state of the same task, or its shapes.
          step: Step of the checkpoint; the newest whole one by default.
          leave_out: Attributes of the saved state that are not looked at.

        Raises:
          UserError: There is no such checkpoint, it is damaged (by default: all are), or it is of
            another model; the message names the first differences.
        """
        step = self._whole_step(step)
        metadata = self._manager.item_metadata(step).state
        self._check_same_arrays(like, metadata, step, leave_out)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(), data=ocp.args.JsonRestore()),
        )
        arrays = _by_name(restored.state)
        paths, structure = jax.tree_util.tree_flatten_with_path(like)
        leaves = [np.asarray(arrays[_name(path)]) for path, _ in paths]
        return jax.tree.unflatten(structure, leaves), restored.data["train_seconds"]

    def read_running(self, step: int) -> dict[str, Any]:
        """Reads the running sums that `save` was given; `{}` where it was given none."""
        restored = self._manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))
        return restored.data.get("running") or {}

    def read_variables(self, step: int | None = None) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Reads the variables of whatever network a `TrainState` was saved of.

        Returns:
          The step of the checkpoint, the network's collections by name as NumPy arrays, and the
          moving averages of those that have any.

        Raises:
          UserError: There is no such checkpoint, or it is damaged (by default: all are).
        """
        step = self._whole_step(step)
        state = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore())
        ).state
        earlier = {_EARLIER_COLLECTION: state.get(_EARLIER_COLLECTION)}
        collections = {name: t for name, t in (state.get("collections") or earlier).items() if t}
        return step, {"params": state["params"], **collections}, state["ema"] or {}

    def _whole_step(self, step: int | None) -> int:
        """The step to read, whose checkpoint is whole: the given one, or the newest such."""
        steps = sorted(self._manager.all_steps())
        if not steps or (step is not None and step not in steps):
            known = ", ".join(map(str, steps)) or "none"
            raise UserError(
                f"No checkpoint of step {step} in {self.directory} (there: {known}). Train first, "
                "or name a step that is there."
            )
        if step is None:
            return self._newest_whole(steps)
        if damage := self._find_damage(step):
            others = ", ".join(str(s) for s in steps if s != step and not self._find_damage(s))
            raise UserError(
                f"The checkpoint {self.directory / str(step)} is damaged: {damage}. Whole ones: "
                f"{others or 'none'}."
            )
        return step

    def _newest_whole(self, steps: list[int]) -> int:
        """The newest step that is whole; says which are not, and moves them out of the way."""
        chosen, damages = -1, {}
        if jax.process_index() == 0:
            for step in reversed(steps):
                damage = self._find_damage(step)
                if damage is None:
                    chosen = step
                    break
                damages[step] = damage
        if jax.process_count() > 1:  # all take the same one
            chosen = int(multihost_utils.broadcast_one_to_all(np.int32(chosen)))
        found = "".join(f"\n  {self.directory / str(s)}: {text}" for s, text in damages.items())
        if chosen < 0:
            raise UserError(
                f"No checkpoint in {self.directory} is whole:{found}\nRestore them from a copy; or "
                "delete that folder, and the run starts from its beginning."
            )
        if damages:
            _log.warning("Damaged, so the checkpoint of step %d is taken:%s", chosen, found)
        if chosen != steps[-1] and not self._read_only:
            for step in damages:
                _set_aside(self.directory / str(step))
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints are set aside")
            self._manager.reload()
        return chosen

    def _find_damage(self, step: int) -> str | None:
        folder = self.directory / str(step)
        if has_checksums(folder):
            return find_damage(folder)
        # Of an earlier version: what its reader notices is all that can be known.
        try:
            self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(), data=ocp.args.JsonRestore()
                ),
            )
        except Exception as error:  # of many types, by orbax, tensorstore and JSON
            return f"it cannot be read ({_reason(error)})"
        return None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what goes wrong while saving, in the background as well, into one message."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # OSError, or what tensorstore and orbax make of one
            raise UserError(
                f"A checkpoint cannot be written in {self.directory} ({_reason(error)}). Make "
                "room, or name a place that can be written; the same command then goes on from "
                "the last checkpoint that is there."
            ) from error

    def _check_same_arrays(
        self, wanted: Any, saved: Any, step: int, leave_out: tuple[str, ...]
    ) -> None:
        there, needed = (
            {n: tuple(x.shape) for n, x in _by_name(t).items() if n.split("/")[0] not in leave_out}
            for t in (saved, wanted)
        )
        names = sorted(there.keys() | needed.keys())
        differing = [n for n in names if there.get(n) != needed.get(n)]
        if differing:
            shown = "\n".join(
                f"  {n}: checkpoint {there.get(n, 'missing')}, model {needed.get(n, 'missing')}"
                for n in differing[:5]
            )
            raise UserError(
                f"The checkpoint {self.directory / str(step)} is of another model: "
                f"{len(differing)} of {len(names)} arrays differ, the first:\n{shown}\n"
                "Use the configuration it was trained with (config.json in its run directory), or "
                "another --workdir."
            )


class _NewestAndOne:
    """What orbax asks after every save: which checkpoints stay."""

    def __init__(self, keep: int, keep_also: Callable[[], int | None]):
        self._keep, self._keep_also = keep, keep_also

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]  # the oldest first
        kept = {*steps[-self._keep :], self._keep_also()}
        return [step in kept for step in steps]


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run directory holds a finished checkpoint; creates nothing."""
    # orbax gives a step's folder its name, the number alone, once all of it is written.
    return any(path.name.isdigit() for path in (Path(workdir) / "checkpoints").glob("*"))


def _set_aside(folder: Path) -> None:
    """Renames a damaged checkpoint, so that it neither counts nor stands in the way."""
    target, number = folder.with_name(f"{folder.name}.damaged"), 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}.damaged{number}")
    folder.rename(target)


def _reason(error: BaseException) -> str:
    """What the system said, out of the long messages of tensorstore and orbax."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and len(causes) < 20:
        causes.append(cause)
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if told := re.search(r"\[OS error (\d+)|os_error_code='(\d+)'", str(cause)):
            return os.strerror(int(told[1] or told[2]))
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _by_name(tree: Any) -> Mapping[str, Any]:
    """The leaves of a state, or of what orbax made of one, by the names that they have today."""
    named = {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
    return {
        f"collections/{name}" if name.startswith(f"{_EARLIER_COLLECTION}/") else name: leaf
        for name, leaf in named.items()
    }


def _name(path: Any) -> str:
    """`params/stage1_block1/conv1/kernel`, whatever kind of container each level is."""
    keys = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path)
    return "/".join(str(k) for k in keys)
