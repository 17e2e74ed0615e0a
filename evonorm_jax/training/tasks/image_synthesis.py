"""Images of a class from noise: BigGAN-deep, hinge loss, several discriminator steps for each step.

Both players are in one `TrainState`: `params` and every other collection have an entry for each.
Averages of the generator's parameters alone are kept; its singular vectors and statistics are made
for them when it is evaluated (`gan.sampling`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from evonorm_jax.data import Hosts, Pipeline
from evonorm_jax.data.pipeline import Batch, eval_mask
from evonorm_jax.errors import UserError
from evonorm_jax.gan import Gan
from evonorm_jax.gan.collapse import CollapseAlarms
from evonorm_jax.gan.images import to_uint8
from evonorm_jax.gan.report import scalars
from evonorm_jax.gan.sampling import Sampler, draw_inputs
from evonorm_jax.gan.sheets import (
    class_sheet,
    interpolation_sheet,
    neighbour_sheet,
    truncation_sheet,
    write_sheet,
)
from evonorm_jax.metrics import RunMetrics, image_synthesis_metrics
from evonorm_jax.training.adversarial_step import PLAYERS, make_train_step, variables_of
from evonorm_jax.training.durations import Durations
from evonorm_jax.training.model import build_gan
from evonorm_jax.training.optimizer import (
    create_optimizer,
    learning_rate_schedule,
    peak_learning_rate,
)
from evonorm_jax.training.parallel import AXIS, WorkerLayout, gather_rows, keys_at, to_host
from evonorm_jax.training.sample_figures import SampleFigures, real_images
from evonorm_jax.training.saved_run import SavedRun
from evonorm_jax.training.state import TrainState
from evonorm_jax.training.tasks.base import Evaluated, Evaluation, Task
from evonorm_jax.training.trained_generator import EVALUATION_SEED, sampling_variables

_SHEET_CLASSES = 10
_SHEET_NEIGHBOURS = 2  # samples of a class on the sheet of nearest neighbours


class ImageSynthesis(Task):
    """Trains the players of `gan.create_gan`.

    Args:
      config: The resolved config.
      pipeline: Images with one class each, from -1 to 1.
      layout: The workers on the devices; None in a task that only evaluates.
      durations: The length of the run in steps; None likewise.

    Raises:
      UserError: The config does not fit the data or the devices.
    """

    remedy = (
        "Try lower rates in config.generator_optimizer and config.discriminator_optimizer, a "
        "larger epsilon in config.model.norm_act_fields or config.model.fields.spectral_epsilon, "
        "or dtype float32."
    )

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        pipeline: Pipeline,
        layout: WorkerLayout | None = None,
        durations: Durations | None = None,
    ):
        super().__init__(config, pipeline, layout, durations)
        self.gan = build_gan(config, pipeline.num_classes, layout)
        _check_images(config, pipeline, self.gan)
        self.figures = SampleFigures(config, pipeline) if config.figures.network else None
        self.optimizers: dict[str, optax.GradientTransformation] = {}
        self._alarms = CollapseAlarms(config.log_every_steps)
        self._use_ema = config.ema_decay > 0
        if layout is None or durations is None:
            return
        self._schedules: dict[str, optax.Schedule] = {}
        self._peaks: dict[str, float] = {}
        updates = {"generator": 1, "discriminator": config.discriminator_steps}
        for player in PLAYERS:
            section = f"{player}_optimizer"
            peak = peak_learning_rate(config[section], layout.batch_size, name=section)
            schedule = learning_rate_schedule(config.schedule, peak, durations)
            self._schedules[player], self._peaks[player] = schedule, peak
            self.optimizers[player] = create_optimizer(
                config[section], _every(schedule, updates[player]), name=section
            )
        self._step = make_train_step(
            self.gan,
            self.optimizers,
            pipeline,
            per_device=layout.per_device,
            discriminator_steps=config.discriminator_steps,
            ema_decay=config.ema_decay,
            ema_start_steps=config.ema_start_steps,
            orthogonal_regularization=config.orthogonal_regularization,
        )

    @classmethod
    def batches_per_step(cls, config: ml_collections.ConfigDict) -> int:
        """One for each step of the discriminator."""
        return config.discriminator_steps

    @property
    def metrics(self) -> RunMetrics:
        """The Fréchet distance, or without a network for it what the discriminator still sees."""
        main = f"samples/{self.figures.main_name}" if self.figures else "eval/score_gap"
        return image_synthesis_metrics(main)

    @property
    def peak_rates(self) -> dict[str, float]:
        """The learning rates after the warm-up."""
        return {f"{player}_learning_rate": peak for player, peak in self._peaks.items()}

    def rates(self, step: int) -> dict[str, float]:
        """Returns the learning rates of the update after `step` updates."""
        return {f"{p}_learning_rate": float(rate(step)) for p, rate in self._schedules.items()}

    def headline(self) -> str:
        """Names the network and the generator's layer."""
        return f"{self.config.model.name}, generator with {self.config.model.norm_act}"

    def draw_state(self, seed: jax.Array | int, weights: Mapping[str, Any]) -> TrainState:
        """Draws both players."""
        del weights  # initial_weights gives none
        drawn = dict(zip(PLAYERS, self.gan.init(jax.random.key(seed)), strict=True))
        names = sorted(set().union(*drawn.values()) - {"params"})
        params = {player: variables["params"] for player, variables in drawn.items()}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            collections={
                name: {p: variables[name] for p, variables in drawn.items() if name in variables}
                for name in names
            },
            opt_state={p: optimizer.init(params[p]) for p, optimizer in self.optimizers.items()},
            ema={"params": {"generator": params["generator"]}} if self._use_ema else {},
        )

    def train_step(
        self, state: TrainState, resident: Any, batch: Any, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Makes the step of `make_train_step`."""
        return self._step(state, resident, batch, key)

    def alarms(self, values: Mapping[str, float]) -> dict[str, str]:
        """Names the ways in which a pair of players collapses."""
        return self._alarms(values)

    # ------------------------------------------------------------------ evaluation

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """The discriminator's scores, and the figures of samples where a network is named.

        Both are of the averaged weights where the run keeps them.
        """
        parts = {
            "eval": Evaluation(self._score, _mean_scores, self._numbered, self._sampling_state)
        }
        if self.figures:
            parts["samples"] = Evaluation(
                self._sample, self._summarize, self._numbers, self._sampling_state
            )
        return parts

    def _generator_variables(self, state: TrainState) -> dict[str, Any]:
        """Makes the variables to draw images with, of the averages where the run keeps them."""
        averages = state.ema["params"]["generator"] if self._use_ema else None
        variables = variables_of(state, "generator")
        return sampling_variables(self.config, self.gan, variables, averages)

    def _sampling_state(self, state: TrainState, resident: Any, batch: Any) -> TrainState:
        """Puts the variables to draw images with in the place of the generator's."""
        del resident, batch
        variables = self._generator_variables(state)
        collections = {
            name: {**players, **({"generator": variables[name]} if name in variables else {})}
            for name, players in state.collections.items()
        }
        params = {**state.params, "generator": variables["params"]}
        return state.replace(params=params, collections=collections)

    def _draw(self, state: TrainState, numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draws the images of these numbers; the same for every run."""
        keys = keys_at(jax.random.key(EVALUATION_SEED), numbers)
        z, labels = draw_inputs(keys, self.gan)
        return self.gan.generator.apply(variables_of(state, "generator"), z, labels), labels

    def _score(self, state: TrainState, resident: Any, batch: Any) -> Evaluated:
        """Sums the discriminator's scores of real images and of as many generated ones."""
        examples = self.pipeline.eval_examples(resident, batch)
        fake, fake_labels = self._draw(state, batch["number"])
        images = jnp.concatenate([examples["image"], fake])
        labels = jnp.concatenate([examples["label"], fake_labels])
        scores = self.gan.discriminator.apply(variables_of(state, "discriminator"), images, labels)
        real_scores, fake_scores = jnp.split(scores, 2)
        counted = examples["mask"] > 0
        sums = {
            "score_real": jnp.sum(jnp.where(counted, real_scores, 0)),
            "score_fake": jnp.sum(jnp.where(counted, fake_scores, 0)),
            "count": jnp.sum(examples["mask"]),
        }
        return Evaluated(jax.lax.psum(sums, AXIS))

    def _sample(self, state: TrainState, resident: Any, batch: Any) -> Evaluated:
        """Draws images of all devices."""
        del resident
        images, labels = self._draw(state, batch["number"])
        rows = {"image": to_uint8(images), "label": labels, "mask": batch["mask"]}
        return Evaluated({}, gather_rows(rows))

    def _summarize(self, sums: dict[str, Any], rows: dict[str, np.ndarray]) -> dict[str, float]:
        del sums
        assert self.figures is not None
        return scalars(self.figures.measure(rows["image"], rows["label"]))

    def _numbered(self, *, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Gives the batches of the evaluation split, and the number of each example."""
        first = 0
        for batch in self.pipeline.eval_batches(batch_size=batch_size, hosts=hosts):
            numbers, first = _positions(first, hosts.round_up(batch_size), hosts)
            yield {**batch, **hosts.shard({"number": numbers})}

    def _numbers(self, *, batch_size: int, hosts: Hosts) -> Iterator[Batch]:
        """Gives the numbers of the samples, laid out as evaluation batches."""
        assert self.figures is not None
        size, first = hosts.round_up(batch_size), 0
        while first < self.figures.num_samples:
            mask = eval_mask(self.figures.num_samples - first, size)[hosts.positions(size)]
            numbers, first = _positions(first, size, hosts)
            yield hosts.shard({"number": numbers, "mask": mask})

    @classmethod
    def trained_run(cls, saved: SavedRun) -> NoReturn:
        """Refuses: a generator finds nothing in images."""
        raise UserError(
            f"{saved.source} is a run of image synthesis, which draws images instead of finding "
            "something in them: python -m experiments.sample, or in Python "
            "evonorm_jax.training.trained_generator.load_generator."
        )

    # ------------------------------------------------------------------ pictures

    def artifacts(self, step: int, state: TrainState, resident: Any, workdir: Path) -> None:
        """Writes `samples/STEP.png`, one row for each class, and at the end three more sheets."""
        del resident
        if jax.process_index() != 0:
            return
        draw = Sampler(self.gan, self._sheet_variables(to_host(state)))
        classes = range(min(_SHEET_CLASSES, self.gan.num_classes))
        z_dim, folder = self.gan.z_dim, workdir / "samples"
        sheet = class_sheet(draw, z_dim, classes)
        write_sheet(folder / f"{step:07d}.png", sheet)
        if self.durations is None or step < self.durations.num_steps:
            return
        write_sheet(
            folder / "interpolations.png", interpolation_sheet(draw, z_dim, self.gan.num_classes)
        )
        write_sheet(folder / "truncations.png", truncation_sheet(draw, z_dim, classes))
        if self.config.dataset.in_memory:  # else the training images are too many to look through
            real, _ = real_images(self.config, self.config.dataset.train_split)
            samples = sheet[:, :_SHEET_NEIGHBOURS].reshape(-1, *self.gan.image_shape)
            write_sheet(folder / "neighbours.png", neighbour_sheet(samples, real))

    @functools.cached_property
    def _sheet_variables(self) -> Any:
        return jax.jit(self._generator_variables)


def _check_images(config: ml_collections.ConfigDict, pipeline: Pipeline, gan: Gan) -> None:
    """Refuses images of another size, range or number of classes than the players'."""
    dataset = config.dataset
    if pipeline.image_shape[:2] != gan.image_shape[:2]:
        height, width, _ = pipeline.image_shape
        raise UserError(
            f"config.model.name={config.model.name!r} is for {gan.image_size}x{gan.image_size} "
            f"pixels, but the images of {dataset.name} are {height}x{width}: choose the network of "
            "their size, or set config.dataset.image_size where the images are resized as they "
            "are read."
        )
    if any(value != 127.5 for value in (*dataset.mean, *dataset.std)):
        raise UserError(
            f"config.dataset.mean={tuple(dataset.mean)} and std={tuple(dataset.std)}: images of a "
            "generator lie between -1 and 1, and so must these; set all of them to 127.5."
        )
    labels = pipeline.resident().get("train_labels")
    if labels is not None and len(np.unique(labels)) < 2:
        raise UserError(
            f"All {len(labels)} training images of {dataset.name} have class {labels[0]}: a "
            "class-conditional generator needs at least two classes. Check the labels, or the "
            "folder that config.dataset.path names."
        )


def _every(schedule: optax.Schedule, updates: int) -> optax.Schedule:
    """Makes a schedule that counts steps of one that is asked by updates."""
    return lambda count: schedule(count // updates)


def _positions(first: int, size: int, hosts: Hosts) -> tuple[np.ndarray, int]:
    """Returns this process's numbers of the batch that begins at `first`, and the next one."""
    return np.arange(first, first + size, dtype=np.int32)[hosts.positions(size)], first + size


def _mean_scores(sums: dict[str, Any], rows: dict[str, np.ndarray]) -> dict[str, float]:
    del rows
    real, fake = (sums[name] / sums["count"] for name in ("score_real", "score_fake"))
    return {
        "score_real": real,
        "score_fake": fake,
        "score_gap": real - fake,
        "examples": round(sums["count"]),
    }
