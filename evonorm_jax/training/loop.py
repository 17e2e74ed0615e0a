"""Training, top to bottom: `train_and_evaluate` reads in the order in which things happen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import jax
import ml_collections
from clu import parameter_overview
from jax.experimental import multihost_utils

from evonorm_jax.analysis import curves
from evonorm_jax.data import prefetch_to_devices
from evonorm_jax.training import run_directory, writers
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.experiment import Experiment, create_experiment
from evonorm_jax.training.guard import NonFiniteGuard
from evonorm_jax.training.preemption import Preemption
from evonorm_jax.training.profiler import ProfileWindow
from evonorm_jax.training.progress import Progress, format_metrics


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    devices: Sequence[jax.Device] | None = None,
    progress_stream: TextIO | None = None,
) -> dict[str, float]:
    """Trains a config in a run directory, from its last checkpoint where there is one.

    Args:
      config: resolved config, as `get_config()` of a file in `configs/` gives it.
      workdir: the run directory; created, or resumed at the exact step.
      devices: to train on; all there are by default.
      progress_stream: where to report, for example `sys.stdout`; None reports nothing.

    Returns:
      The summary of a finished run, such as `eval/top1`; `{}` when asked to stop before its end.

    Raises:
      UserError: for bad input; nothing is written then.
      TrainingDiverged: when loss or gradient are not finite.
    """
    workdir = Path(workdir)
    first_process = jax.process_index() == 0

    # ------------------------------------------------------------- config, data, model
    run_directory.check_owner(workdir, config)
    run = create_experiment(config, devices)
    durations, batch_size = run.durations, run.layout.batch_size
    num_steps = durations.num_steps
    progress = Progress(
        num_steps,
        durations.steps_per_epoch,
        batch_size,
        stream=progress_stream if first_process else None,
    )

    # ------------------------------------------------------------- run directory, restore
    # The newest checkpoint comes first; without one the run starts from its seed.
    run_directory.open_run_directory(workdir, run, first_process=first_process)
    checkpoints = Checkpoints(workdir, keep=config.keep_checkpoints)
    start_step, earlier_seconds = 0, 0.0
    if checkpoints.latest_step is not None:
        state, earlier_seconds = checkpoints.restore(run.state_shapes())
        start_step = int(state.step)
        if start_step == num_steps and (summary := run_directory.read_summary(workdir)):
            checkpoints.close()
            progress.report(f"{workdir} is finished: {num_steps} steps. Nothing to do.")
            return summary
        progress.report(f"Resuming {workdir} at step {start_step} of {num_steps}.")
    else:
        state = run.create_state()
    if first_process:
        writers.drop_after(workdir, start_step)
        overview = parameter_overview.get_parameter_overview(state.params)
        (workdir / "parameters.txt").write_text(overview + "\n")
    progress.report(_headline(run, state.num_parameters))

    # ------------------------------------------------------------- steps
    state = run.parallel.replicate(state)
    resident = run.parallel.replicate(run.pipeline.resident())
    train_step, eval_steps = run.train_step(), run.eval_steps()
    writer = writers.create_writer(
        workdir, first_process=first_process, tensorboard=config.tensorboard
    )
    profile = ProfileWindow(workdir, config.profile_start_step, config.profile_steps)
    guard = NonFiniteGuard(config, checkpoints)
    batches = run.pipeline.train_batches(
        start_step=start_step, batch_size=batch_size, hosts=run.parallel.hosts
    )

    # ------------------------------------------------------------- loop
    step, stop, final = start_step, False, {}
    with (
        checkpoints,
        writer,
        progress,
        Preemption() as preemption,
        prefetch_to_devices(batches, run.parallel.shard) as device_batches,
    ):
        while step < num_steps and not stop:
            step += 1
            with profile.step(step):
                state, metrics = train_step(state, resident, next(device_batches))
            guard.add(step, metrics)
            if step == start_step + 1:
                jax.block_until_ready(metrics)  # compiled: the clock starts behind it
                progress.start(step)
            stop = preemption.requested(step)
            finished = step == num_steps

            if step % config.log_every_steps == 0 or finished or stop:
                means = guard.means()
                progress.update(step, {name: means[name] for name in ("loss", "top1")})
                row = {f"train/{name}": value for name, value in means.items()}
                row["train/learning_rate"] = float(run.learning_rate(step - 1))
                if speed := progress.images_per_second(step):
                    row["train/images_per_second"] = speed
                writer.write(step, {"epoch": durations.epoch(step), **row})

            if step % durations.eval_every_steps == 0 or finished:
                progress.pause(step)
                final = run.evaluate(eval_steps, state, resident)
                writer.write(step, {"epoch": durations.epoch(step), **final})
                progress.report(f"epoch {durations.epoch(step):.4g}  {format_metrics(final)}")
                progress.start(step)

            if step % config.checkpoint_every_steps == 0 or finished or stop:
                progress.pause(step)
                guard.check()  # what is not finite is never saved
                train_seconds = earlier_seconds + progress.seconds
                checkpoints.save(state, config, train_seconds=train_seconds)
                progress.start(step)

        # --------------------------------------------------------- end
        progress.pause(step)
        checkpoints.wait()
        if step < num_steps:
            progress.report(
                f"{preemption.name}: saved step {step} of {num_steps} and stopped. The same "
                "command goes on from there."
            )
            return {}
        if not final:  # killed between the last checkpoint and the summary
            final = run.evaluate(eval_steps, state, resident)
        summary = {
            **final,
            "steps": num_steps,
            "parameters": state.num_parameters,
            "train_seconds": round(earlier_seconds + progress.seconds, 3),
        }
        if first_process:
            curves.plot_runs([workdir], workdir / "curve.png")
            run_directory.write_summary(workdir, summary)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the first process has written the summary")
    return summary


def _headline(run: Experiment, num_parameters: int) -> str:
    config, devices = run.config, run.parallel.devices
    workers = "worker" if config.num_workers == 1 else "workers"
    return (
        f"{config.model.name} with {config.model.norm_act}: {num_parameters:,} parameters; "
        f"{run.pipeline.num_train_examples:,} training images of {config.dataset.name}; batch "
        f"{run.layout.batch_size} = {config.num_workers} {workers} x {config.images_per_worker} "
        f"images, on {len(devices)} x {devices[0].device_kind}"
    )
