"""Training, top to bottom: `train_and_evaluate` and what it calls stand in the order of a run."""

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
from evonorm_jax.training.extension import Extension, find_extension
from evonorm_jax.training.fit_to_data import prepare
from evonorm_jax.training.guard import NonFiniteGuard
from evonorm_jax.training.model import inline_layer
from evonorm_jax.training.parameter_overview import parameter_overview
from evonorm_jax.training.preemption import Preemption
from evonorm_jax.training.profiler import ProfileWindow
from evonorm_jax.training.progress import Progress
from evonorm_jax.training.state import num_parameters
from evonorm_jax.training.tasks import InitialWeights

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
    run = _create_run(config, workdir, devices, extend=extend)
    # Read before anything is written; a run that resumes has left them behind.
    weights = None if has_checkpoint(workdir) else run.task.initial_weights()
    extension = find_extension(workdir, run) if extend else None
    first_process = jax.process_index() == 0

    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(run_directory.locked(workdir))
        if extension and first_process:
            run_directory.drop_summary(workdir)
        run_directory.open_run_directory(workdir, run, first_process=first_process)
        training = _Training(run, workdir, cleanup, progress_stream)
        if finished := training.restore(weights):
            return finished
        training.announce(extension)
        training.open(cleanup)
        training.make_steps()
        if not training.is_over():
            return {}
        summary = training.summarize()
        if first_process:
            if draw_curve is not None:
                draw_curve(workdir)
            run_directory.write_summary(workdir, summary)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the first process has written the summary")
    return summary


def _create_run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    devices: Sequence[jax.Device] | None,
    *,
    extend: bool,
) -> Experiment:
    """Completes and checks a config, and opens its data; nothing is written."""
    config = complete(config)
    check_config(config)
    config = prepare(inline_layer(config), workdir)
    run_directory.check_owner(workdir, config, extend=extend)
    run = create_experiment(config, devices)
    run_directory.check_classes(workdir, run.task.classes())
    return run


class _Training:
    """A run that is under way: its state, and what follows it from step to step.

    The methods are called once, in the order in which they stand.

    Args:
      run: What is trained.
      workdir: The run directory, open and locked.
      cleanup: Closes at the end what is opened here.
      progress_stream: Where to report; None reports nothing.
    """

    def __init__(
        self,
        run: Experiment,
        workdir: Path,
        cleanup: contextlib.ExitStack,
        progress_stream: TextIO | None,
    ):
        self.run, self.workdir = run, workdir
        self.config = config = run.config  # with what was left to the data
        self.first_process = jax.process_index() == 0
        self.best = best = BestEvaluation(run.task.metrics, patience=config.early_stopping_patience)
        self.checkpoints = cleanup.enter_context(
            Checkpoints(
                workdir,
                keep=config.keep_checkpoints,
                # Not `self.best`: a cycle would keep the state on the devices after the run.
                keep_also=lambda: best.step if config.keep_best_checkpoint else None,
            )
        )
        self.progress = cleanup.enter_context(
            Progress(
                run.durations.num_steps,
                run.durations.steps_per_epoch,
                run.images_per_step,
                stream=progress_stream if self.first_process else None,
            )
        )
        self.state: Any = None
        self.step = self.start_step = 0
        self.earlier_seconds = 0.0  # of training, before this process
        self.stop = False  # whether the last step was asked to be so
        self.final: dict[str, float] = {}  # the last evaluation
        self.alarms: set[str] = set()
        for note in run.notes:
            self.progress.report(note)

    # --------------------------------------------------------------- start

    def restore(self, weights: InitialWeights | None) -> dict[str, float] | None:
        """Takes the state of the newest checkpoint, or without one of weights or the seed.

        Returns:
          The summary of a run that is finished already; None where something is left to do.
        """
        if self.checkpoints.latest_step is None:
            self.state = self.run.create_state(weights.variables if weights else None)
            if weights:
                self.progress.report(weights.description)
            return None
        self.state, self.earlier_seconds = self.checkpoints.restore(self.run.state_shapes())
        self.step = self.start_step = step = int(self.state.step)
        num_steps = self.run.durations.num_steps
        self.best.read(self.workdir, step)
        ended = step == num_steps or self.best.exhausted
        if ended and (summary := read_summary(self.workdir)):
            self.progress.report(f"{self.workdir} is finished: {step} steps. Nothing to do.")
            return summary
        self.progress.report(f"Resuming {self.workdir} at step {step} of {num_steps}.")
        return None

    def announce(self, extension: Extension | None) -> None:
        """Reports what is to be trained, and drops rows of steps that will be made again."""
        if extension:
            self.progress.report(extension.describe(self.start_step))
        self.parameters = num_parameters(self.state.params)
        self.progress.report(_headline(self.run, self.parameters))
        if self.first_process:
            writers.drop_after(self.workdir, self.start_step)
            drop_events_after(self.workdir, self.start_step)
            (self.workdir / "parameters.txt").write_text(parameter_overview(self.state.params))

    def open(self, cleanup: contextlib.ExitStack) -> None:
        """Puts state and data on the devices, and opens what the steps read and write."""
        run, config, start_step = self.run, self.config, self.start_step
        self.state = run.parallel.replicate(self.state)
        self.resident = run.parallel.replicate(run.pipeline.resident())
        self.train_step, self.evaluator = run.train_step(), run.evaluator()
        self.guard = NonFiniteGuard(run.task, self.checkpoints)
        if start_step:
            self.guard.resume(self.checkpoints.read_running(start_step))
        self.writer = cleanup.enter_context(
            writers.create_writer(
                self.workdir,
                first_process=self.first_process,
                tensorboard=config.tensorboard,
                others=[
                    functools.partial(create, self.workdir, config.to_dict())
                    for create in writers.find_writers(config)
                ],
                start_step=start_step,
            )
        )
        self.profile = cleanup.enter_context(
            ProfileWindow(self.workdir, config.profile_start_step, config.profile_steps)
        )
        self.batches = cleanup.enter_context(
            prefetch_to_devices(
                run.pipeline.train_batches(
                    start_step=start_step,
                    batch_size=run.images_per_step,
                    hosts=run.parallel.hosts,
                ),
                run.parallel.shard,
            )
        )
        self.preemption = cleanup.enter_context(Preemption())

    # --------------------------------------------------------------- steps

    def make_steps(self) -> None:
        """Trains until the last step, or until the run is asked to stop or gets no better."""
        config, num_steps = self.config, self.run.durations.num_steps
        main_metric = self.run.task.metrics.main_metric
        if self._is_evaluated() and not writers.has_row(self.workdir, self.step, main_metric):
            self._evaluate()  # stopped between a checkpoint and its evaluation
        while self.step < num_steps and not (self.stop or self.best.exhausted):
            self._make_step()
            last = self.step == num_steps
            if self.step % config.log_every_steps == 0 or last:
                self._log()
            # Before the evaluation, which may outlast the grace period of a preemption.
            is_evaluated = self._is_evaluated()
            if self.step % config.checkpoint_every_steps == 0 or is_evaluated or self.stop:
                self._save()
            if is_evaluated and (last or not self.stop):
                self._evaluate()
        self.progress.pause(self.step)
        self.checkpoints.wait()

    def _is_evaluated(self) -> bool:
        """Whether an evaluation belongs to this step."""
        durations = self.run.durations
        every = durations.eval_every_steps
        return self.step == durations.num_steps or (self.step > 0 and self.step % every == 0)

    def _make_step(self) -> None:
        self.step += 1
        first = self.step == self.start_step + 1
        if first:
            self.progress.wait("compiling the training step, which the first step waits for")
        self.profile.before(self.step)
        self.state, metrics = self.train_step(self.state, self.resident, next(self.batches))
        self.profile.after(self.step, metrics)
        self.guard.add(self.step, metrics)
        if first:
            jax.block_until_ready(metrics)  # compiled: the clock starts behind it
            self.progress.start(self.step)
        self.stop = self.preemption.requested(self.step)

    def _log(self) -> None:
        """Reports and writes the means of the metrics since the last log."""
        task, means = self.run.task, self.guard.means()
        shown = {name: means[name] for name in task.metrics.shown if name in means}
        self.progress.update(self.step, task.metrics.format_line(shown))
        self._report_alarms(means)
        logged = {**means, **task.rates(self.step - 1)}
        row = {f"train/{name}": value for name, value in logged.items()}
        if speed := self.progress.images_per_second(self.step):
            row["train/images_per_second"] = speed
        self.writer.write(self.step, {"epoch": self.run.durations.epoch(self.step), **row})

    def _save(self) -> None:
        self.progress.pause(self.step)
        self.guard.check()  # what is not finite is never saved
        self.checkpoints.save(
            self.state,
            self.config,
            train_seconds=self.earlier_seconds + self.progress.seconds,
            running=self.guard.running_sums(),
        )
        self.progress.start(self.step)

    def _evaluate(self) -> None:
        """Evaluates the state, draws its pictures, and writes and reports what was found."""
        step, task, epoch = self.step, self.run.task, self.run.durations.epoch(self.step)
        self.progress.pause(step)
        self.final = self.evaluator(self.state, self.resident, self.progress.evaluated)
        self.best.add(step, self.final.get(task.metrics.main_metric))
        task.artifacts(step, self.state, self.resident, self.workdir)
        self.writer.write(step, {"epoch": epoch, **self.final})  # last: it says that all is done
        self.progress.report(f"epoch {epoch:.4g}  {task.metrics.format_line(self.final)}")
        self._report_alarms(self.final)
        self.progress.start(step)

    def _report_alarms(self, values: dict[str, float]) -> None:
        found = self.run.task.alarms(values)
        for symptom in found.keys() - self.alarms:
            self.progress.report(f"step {self.step}: {found[symptom]}")
        self.alarms.update(found)

    # --------------------------------------------------------------- end

    def is_over(self) -> bool:
        """Whether the run has come to its end; reports why where steps are left."""
        num_steps, best = self.run.durations.num_steps, self.best
        if self.step == num_steps:
            return True
        if best.exhausted:
            self.progress.report(
                f"No evaluation of the last {best.evaluations_since} was better than {best}: "
                f"stopped early at step {self.step} of {num_steps}."
            )
            return True
        self.progress.report(
            f"{self.preemption.name}: saved step {self.step} of {num_steps} and stopped. The same "
            "command goes on from there."
        )
        return False

    def summarize(self) -> dict[str, float]:
        """Returns the last evaluation, and what the run took."""
        if not self.final:  # killed between the last evaluation and the summary
            self.final = self.evaluator(self.state, self.resident)
        summary = {
            **self.final,
            "steps": self.step,
            "parameters": self.parameters,
            "train_seconds": round(self.earlier_seconds + self.progress.seconds, 3),
        }
        if self.best.step is not None:
            summary |= {"best_step": self.best.step, "best_value": self.best.value}
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
