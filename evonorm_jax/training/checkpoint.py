"""Checkpoints by orbax: state, data position and configuration, written whole or not at all.

Arrays are saved as one plain replica in NumPy, so a checkpoint does not know how many devices or
hosts wrote it. orbax writes into a temporary folder and renames it, so a kill at any moment leaves
the last finished checkpoint in place; the data position is the step alone, because batches are
pure functions of (seed, step).
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from evonorm_jax.errors import UserError
from evonorm_jax.training.parallel import to_host
from evonorm_jax.training.state import TrainState

if TYPE_CHECKING:
    import ml_collections


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
      workdir: the run directory; checkpoints lie in `workdir/checkpoints/<step>`.
      keep: how many of the newest to keep.
      read_only: never create or delete anything.
    """

    def __init__(self, workdir: Path, *, keep: int = 2, read_only: bool = False):
        self.directory = Path(workdir).absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
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
    def latest_step(self) -> int | None:
        """Step of the newest finished checkpoint, or None."""
        return self._manager.latest_step()

    def save(
        self, state: TrainState, config: ml_collections.ConfigDict, *, train_seconds: float = 0.0
    ) -> None:
        """Saves the state at its own step, in the background; a step saved already is left."""
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
        """Returns when everything asked for is on disk."""
        self._manager.wait_until_finished()

    def restore(self, like: TrainState, step: int | None = None) -> tuple[TrainState, float]:
        """Reads a checkpoint as NumPy arrays, and the seconds of training behind it.

        Args:
          like: a state (or its shapes) of the same model and optimizer.
          step: which one; the newest by default.

        Raises:
          UserError: where there is none, or it is of another model; names the first differences.
        """
        step = self._existing_step(step)
        wanted = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
        self._check_same_arrays(wanted, self._manager.item_metadata(step).state, step)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(wanted), data=ocp.args.JsonRestore()
            ),
        )
        return restored.state, restored.data["train_seconds"]

    def restore_variables(
        self, like: dict[str, Any], step: int | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Reads what evaluation needs, whatever the optimizer was.

        Args:
          like: `params`, `batch_stats` and `ema` of the same model, or their shapes.
          step: which checkpoint; the newest by default.

        Returns:
          its step, and the same as NumPy arrays.

        Raises:
          UserError: as `restore`.
        """
        step = self._existing_step(step)
        saved = self._manager.item_metadata(step).state
        self._check_same_arrays(like, {name: saved[name] for name in like}, step)
        return self.read_variables(step)

    def read_variables(self, step: int | None = None) -> tuple[int, dict[str, Any]]:
        """Reads the variables of whatever network was saved.

        Returns:
          the step of the checkpoint, and its `params`, `batch_stats` and `ema` as NumPy arrays.

        Raises:
          UserError: where there is no such checkpoint.
        """
        step = self._existing_step(step)
        state = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore())
        ).state
        return step, {name: state[name] or {} for name in ("params", "batch_stats", "ema")}

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

    def _check_same_arrays(self, wanted: Any, metadata: Any, step: int) -> None:
        saved = {_name(p): tuple(m.shape) for p, m in _leaves(metadata)}
        needed = {_name(p): tuple(x.shape) for p, x in _leaves(wanted)}
        names = sorted(set(saved) | set(needed))
        differing = [n for n in names if saved.get(n) != needed.get(n)]
        if differing:
            shown = "\n".join(
                f"  {n}: checkpoint {saved.get(n, 'missing')}, model {needed.get(n, 'missing')}"
                for n in differing[:5]
            )
            raise UserError(
                f"The checkpoint {self.directory / str(step)} is of another model: "
                f"{len(differing)} of {len(names)} arrays differ, the first:\n{shown}\n"
                "Use the configuration it was trained with (config.json in its run directory), or "
                "another --workdir."
            )


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run directory holds a finished checkpoint; creates nothing."""
    # orbax gives a step's folder its name, the number alone, once all of it is written.
    return any(path.name.isdigit() for path in (Path(workdir) / "checkpoints").glob("*"))


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _name(path: Any) -> str:
    """`params/stage1_block1/conv1/kernel`, whatever kind of container each level is."""
    keys = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path)
    return "/".join(str(k) for k in keys)
