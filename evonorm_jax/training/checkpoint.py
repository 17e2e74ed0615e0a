"""Checkpoints by orbax: state, data position and configuration, written whole or not at all.

Arrays are saved as one plain replica in NumPy, so a checkpoint does not know how many devices or
hosts wrote it. orbax writes into a temporary folder and renames it, so a kill at any moment leaves
the last finished checkpoint in place; the data position is the step alone, because batches are
pure functions of (seed, step).
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from evonorm_jax.errors import UserError
from evonorm_jax.training.parallel import to_host

# The one collection that states had beside `params` before they kept all of a network's.
_EARLIER_COLLECTION = "batch_stats"

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
        )
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
        """Finishes what is being saved."""
        self._manager.close()

    @property
    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, the oldest first."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """Step of the newest finished checkpoint, or None."""
        return self._manager.latest_step()

    def save(
        self, state: Any, config: ml_collections.ConfigDict, *, train_seconds: float = 0.0
    ) -> None:
        """Saves a state at its own step, in the background; a step that is there stays as it is."""
        host_state = to_host(state)
        step = int(host_state.step)
        if step == self.latest_step:
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(host_state),
                data=ocp.args.JsonSave(
                    {"step": step, "seed": config.seed, "train_seconds": train_seconds}
                ),
                config=ocp.args.JsonSave(config.to_dict()),
            ),
            force=True,
        )

    def wait(self) -> None:
        """Waits until everything that was asked for is on disk."""
        self._manager.wait_until_finished()

    def restore(
        self, like: Any, step: int | None = None, *, leave_out: tuple[str, ...] = ()
    ) -> tuple[Any, float]:
        """Reads a checkpoint as NumPy arrays, and the seconds of training behind it.

        Args:
          like: A state of the same task, or its shapes.
          step: Step of the checkpoint; the newest by default.
          leave_out: Attributes of the saved state that are not looked at.

        Raises:
          UserError: There is no such checkpoint, or it is of another model; the message names the
            first differences.
        """
        step = self._existing_step(step)
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

    def read_variables(self, step: int | None = None) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Reads the variables of whatever network a `TrainState` was saved of.

        Returns:
          The step of the checkpoint, the network's collections by name as NumPy arrays, and the
          moving averages of those that have any.

        Raises:
          UserError: There is no such checkpoint.
        """
        step = self._existing_step(step)
        state = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore())
        ).state
        earlier = {_EARLIER_COLLECTION: state.get(_EARLIER_COLLECTION)}
        collections = {name: t for name, t in (state.get("collections") or earlier).items() if t}
        return step, {"params": state["params"], **collections}, state["ema"] or {}

    def _existing_step(self, step: int | None) -> int:
        steps = self._manager.all_steps()
        wanted = self.latest_step if step is None else step
        if wanted is None or wanted not in steps:
            known = ", ".join(map(str, steps)) or "none"
            raise UserError(
                f"No checkpoint of step {step} in {self.directory} (there: {known}). Train first, "
                "or name a step that is there."
            )
        return wanted

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
