"""Training, top to bottom: `train_and_evaluate` reads in the order in which things happen."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import jax
from jax.experimental import multihost_utils

from evonorm_jax.data import prefetch_to_devices
from evonorm_jax.data.config import describe_dataset
from evonorm_jax.run_files import read_summary
from evonorm_jax.training import run_directory, writers
from evonorm_jax.training.best import BestEvaluation
from evonorm_jax.training.checkpoint import Checkpoints, has_checkpoint
from evonorm_jax.training.config import check_config, complete
from evonorm_jax.training.event_files import drop_events_after
from evonorm_jax.training.experiment import Experiment, create_experiment
from evonorm_jax.training.extension import find_extension
from evonorm_jax.training.fit_to_data import prepare
from evonorm_jax.training.guard import NonFiniteGuard
from evonorm_jax.training.model import inline_layer
from evonorm_jax.training.parameter_overview import parameter_overview
from evonorm_jax.training.preemption import Preemption
from evonorm_jax.training.profiler import ProfileWindow
from evonorm_jax.training.progress import Progress
from evonorm_jax.training.state import num_parameters

if TYPE_CHECKING:
    import ml_collections


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    devices: Sequence[jax.Device] | None = None,
    extend: bool = False,
    progress_stream: TextIO | None = None,
    draw_curve: Callable[[Path], Any] | None = None,
) -> dict[str, float]:
    """Trains a config in a run directory, from its last checkpoint where there is one.

    Args:
      config: The resolved config, as `get_config()` of a file in `configs/` gives it.
      workdir: The run directory; it is created, or resumed at the exact step.
      devices: Devices to train on; all there are by default.
      extend: Whether the run directory may hold a run that was to be shorter, finished or not; see
        `extension.Extension` for its schedule.
      progress_stream: Where to report, for example `sys.stdout`; None reports nothing.
      draw_curve: Is called with the run directory at the end, to draw what was measured, for
        example `evonorm_jax.analysis.plot_run`.

    Returns:
      The summary of a finished run, such as `eval/loss`; `{}` when asked to stop before its end.

    Raises:
      UserError: There is bad input, or another process trains there; nothing is written then.
      TrainingDiverged: Loss or gradient is not finite.
    """
    workdir = Path(workdir)
    first_process = jax.process_index() == 0

    # ------------------------------------------------------------- config, data, task
    config = complete(config)
    check_config(config)
    config = prepare(inline_layer(config), workdir)
    run_directory.check_owner(workdir, config, extend=extend)
    run = create_experiment(config, devices)
    config = run.config  # with what was left to the data
    task, run_metrics = run.task, run.task.metrics
    # Read before anything is written; a run that resumes has left them behind.
    weights = None if has_checkpoint(workdir) else task.initial_weights()
    extension = find_extension(workdir, run) if extend else None

    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(run_directory.locked(workdir))
        if extension and first_process:
            run_directory.drop_summary(workdir)
        run_directory.open_run_directory(workdir, run, first_process=first_process)
        best = BestEvaluation(run_metrics, patience=config.early_stopping_patience)
        checkpoints = cleanup.enter_context(
            Checkpoints(
                workdir,
                keep=config.keep_checkpoints,
                keep_also=lambda: best.step if config.keep_best_checkpoint else None,
            )
        )
        progress = cleanup.enter_context(
            Progress(
                run.durations.num_steps,
                run.durations.steps_per_epoch,
                run.images_per_step,
                stream=progress_stream if first_process else None,
            )
        )

        for note in run.notes:
            progress.report(note)

        # --------------------------------------------------------- restore
        # The newest checkpoint comes first; without one the run starts from config.init_from or
        # from its seed.
        start_step, earlier_seconds = 0, 0.0
        if checkpoints.latest_step is None:
            state = run.create_state(weights.variables if weights else None)
            if weights:
                progress.report(weights.description)
        else:
            state, earlier_seconds = checkpoints.restore(run.state_shapes())
            start_step = int(state.step)
            best.read(workdir, start_step)
            ended = start_step == run.durations.num_steps or best.exhausted
            if ended and (summary := read_summary(workdir)):
                progress.report(f"{workdir} is finished: {start_step} steps. Nothing to do.")
                return summary
            progress.report(
                f"Resuming {workdir} at step {start_step} of {run.durations.num_steps}."
            )
        if extension:
            progress.report(extension.describe(start_step))
        parameters = num_parameters(state.params)
        progress.report(_headline(run, parameters))
        if first_process:
            writers.drop_after(workdir, start_step)
            drop_events_after(workdir, start_step)
            (workdir / "parameters.txt").write_text(parameter_overview(state.params))

        # --------------------------------------------------------- steps
        state = run.parallel.replicate(state)
        resident = run.parallel.replicate(run.pipeline.resident())
        train_step, evaluate = run.train_step(), run.evaluator()
        guard = NonFiniteGuard(task, checkpoints)
        if start_step:
            guard.resume(checkpoints.read_running(start_step))
        writer = cleanup.enter_context(
            writers.create_writer(
                workdir,
                first_process=first_process,
                tensorboard=config.tensorboard,
                others=[
                    functools.partial(create, workdir, config.to_dict())
                    for create in writers.find_writers(config)
                ],
                start_step=start_step,
            )
        )
        profile = cleanup.enter_context(
            ProfileWindow(workdir, config.profile_start_step, config.profile_steps)
        )
        batches = cleanup.enter_context(
            prefetch_to_devices(
                run.pipeline.train_batches(
                    start_step=start_step,
                    batch_size=run.images_per_step,
                    hosts=run.parallel.hosts,
                ),
                run.parallel.shard,
            )
        )
        preemption = cleanup.enter_context(Preemption())

        # --------------------------------------------------------- loop
        num_steps, epoch = run.durations.num_steps, run.durations.epoch
        step, stop, final = start_step, False, {}
        alarms: set[str] = set()

        def report_alarms(values: dict[str, float]) -> None:
            found = task.alarms(values)
            for symptom in found.keys() - alarms:
                progress.report(f"step {step}: {found[symptom]}")
            alarms.update(found)

        def evaluate_and_report() -> dict[str, float]:
            progress.pause(step)
            result = evaluate(state, resident, progress.evaluated)
            best.add(step, result.get(run_metrics.main_metric))
            task.artifacts(step, state, resident, workdir)
            writer.write(step, {"epoch": epoch(step), **result})  # last: it says that all is done
            progress.report(f"epoch {epoch(step):.4g}  {run_metrics.format_line(result)}")
            report_alarms(result)
            progress.start(step)
            return result

        due = step == num_steps or (step and step % run.durations.eval_every_steps == 0)
        if due and not writers.has_row(workdir, step, run_metrics.main_metric):
            final = evaluate_and_report()  # stopped between a checkpoint and its evaluation
        while step < num_steps and not (stop or best.exhausted):
            step += 1
            if step == start_step + 1:
                progress.wait("compiling the training step, which the first step waits for")
            profile.before(step)
            state, metrics = train_step(state, resident, next(batches))
            profile.after(step, metrics)
            guard.add(step, metrics)
            if step == start_step + 1:
                jax.block_until_ready(metrics)  # compiled: the clock starts behind it
                progress.start(step)
            stop = preemption.requested(step)
            last = step == num_steps
            evaluate_now = last or step % run.durations.eval_every_steps == 0

            if step % config.log_every_steps == 0 or last:
                means = guard.means()
                shown = {name: means[name] for name in run_metrics.shown if name in means}
                progress.update(step, run_metrics.format_line(shown))
                report_alarms(means)
                logged = {**means, **task.rates(step - 1)}
                row = {f"train/{name}": value for name, value in logged.items()}
                if speed := progress.images_per_second(step):
                    row["train/images_per_second"] = speed
                writer.write(step, {"epoch": epoch(step), **row})

            # Before the evaluation, which may outlast the grace period of a preemption.
            if step % config.checkpoint_every_steps == 0 or evaluate_now or stop:
                progress.pause(step)
                guard.check()  # what is not finite is never saved
                seconds = earlier_seconds + progress.seconds
                running = guard.running_sums()
                checkpoints.save(state, config, train_seconds=seconds, running=running)
                progress.start(step)

            if evaluate_now and (last or not stop):
                final = evaluate_and_report()

        # --------------------------------------------------------- end
        progress.pause(step)
        checkpoints.wait()
        if step < num_steps and best.exhausted:
            progress.report(
                f"No evaluation of the last {best.evaluations_since} was better than {best}: "
                f"stopped early at step {step} of {num_steps}."
            )
        elif step < num_steps:
            progress.report(
                f"{preemption.name}: saved step {step} of {num_steps} and stopped. The same "
                "command goes on from there."
            )
            return {}
        if not final:  # killed between the last evaluation and the summary
            final = evaluate(state, resident)
        summary = {
            **final,
            "steps": step,
            "parameters": parameters,
            "train_seconds": round(earlier_seconds + progress.seconds, 3),
        }
        if best.step is not None:
            summary |= {"best_step": best.step, "best_value": best.value}
        if first_process:
            if draw_curve is not None:
                draw_curve(workdir)
            run_directory.write_summary(workdir, summary)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the first process has written the summary")
    return summary


def _headline(run: Experiment, parameters: int) -> str:
    """Says what is trained on what, for how long."""
    config, devices, durations = run.config, run.parallel.devices, run.durations
    workers = "worker" if config.num_workers == 1 else "workers"
    images = f"{run.pipeline.num_train_examples:,} training images"
    rates = (f"{name.replace('_', ' ')} {peak:.4g}" for name, peak in run.task.peak_rates.items())
    return (
        f"{run.task.headline()}: {parameters:,} parameters, on "
        f"{len(devices)} x {devices[0].device_kind}\n"
        f"{describe_dataset(config.dataset)}: {images}, batch "
        f"{run.layout.batch_size} = {config.num_workers} {workers} x {config.images_per_worker} "
        f"images\n"
        f"{durations.num_steps:,} steps ({durations.epoch(durations.num_steps):.4g} epochs), "
        f"{durations.warmup_steps:,} of them warm-up, to {', '.join(rates)}"
    )
