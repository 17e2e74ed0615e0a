"""One training step of small networks, to see how much of a layer's gain is left in a network."""

from __future__ import annotations

import dataclasses
import functools
import time
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from evonorm_jax.benchmarks import rivals
from evonorm_jax.benchmarks.layer_program import peak_bytes
from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.suite import Options
from evonorm_jax.benchmarks.timing import Sampler, blocking, interleave, spread
from evonorm_jax.data.arrays import fake_arrays
from evonorm_jax.data.config import dataset_fields
from evonorm_jax.data.in_memory import InMemoryPipeline
from evonorm_jax.data.pipeline import Pipeline
from evonorm_jax.errors import UserError
from evonorm_jax.models import create_model
from evonorm_jax.norm_act import LayerLike, norm_act
from evonorm_jax.training.parallel import AXIS, DataParallel
from evonorm_jax.training.state import TrainState, create_train_state, initial_variables
from evonorm_jax.training.steps import step_key
from evonorm_jax.training.tasks.classification import make_train_step


@dataclasses.dataclass(frozen=True)
class Contender:
    """The parts that a training step is made of.

    Attributes:
      layer: Norm-activation layer of the network.
      network_alone: Whether the step is only the network's forward and backward pass on ready
        images.
      ema_decay: Decay of the moving average of the weights; 0 for none.
    """

    layer: LayerLike
    network_alone: bool = False
    ema_decay: float = 0.0


BASELINE = "BN-ReLU, Flax"
CONTENDERS: Mapping[str, Contender] = {
    BASELINE: Contender(functools.partial(rivals.FlaxBatchNormReLU)),
    "BN-ReLU": Contender("bn_relu"),
    "EvoNorm-S0": Contender("evonorm_s0"),
    "EvoNorm-B0": Contender("evonorm_b0"),
    "EvoNorm-S0, plain": Contender(norm_act("evonorm_s0", implementation="reference")),
    "EvoNorm-B0, plain": Contender(norm_act("evonorm_b0", implementation="reference")),
    "EvoNorm-S0, network alone": Contender("evonorm_s0", network_alone=True),
    "EvoNorm-S0, EMA": Contender("evonorm_s0", ema_decay=0.9999),
}
OURS = ("BN-ReLU", "EvoNorm-S0", "EvoNorm-B0")
COMPARISONS = (
    *((name, BASELINE) for name in OURS),
    *((name, "BN-ReLU") for name in OURS if name != "BN-ReLU"),
    *((name, f"{name}, plain") for name in OURS if name != "BN-ReLU"),
    ("EvoNorm-S0, network alone", "EvoNorm-S0"),
    ("EvoNorm-S0, EMA", "EvoNorm-S0"),
)
NOTES = (
    "A whole step of `make_train_step`: augmentation, forward and backward pass, SGD with "
    "momentum; made-up images in device memory. `network alone` is the forward and backward pass, "
    "`EMA` adds a moving average of the weights.",
    "`BN-ReLU, Flax` is `nn.BatchNorm` and `nn.relu`; `BN-ReLU` is this project's, fused as the "
    "EvoNorms are, `plain` what XLA makes of the formulas without the fused kernels.",
    "Compile seconds include tracing. Temporaries are the scratch memory of the compiled step.",
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is trained: the network, the images and the batch.

    Attributes:
      model: Name of the network, as `create_model` takes it.
      image_size: Height and width of the images, in pixels.
      num_classes: Number of classes of the made-up labels.
      batch_size: Number of images in a step.
      dtype: Dtype of the network: "float32" or "bfloat16".
      fields: Fields of the network.
      contenders: Names in `CONTENDERS` of the steps to measure.
    """

    model: str
    image_size: int
    num_classes: int
    batch_size: int
    dtype: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    contenders: tuple[str, ...] = tuple(CONTENDERS)

    @property
    def name(self) -> str:
        """Name of the workload in the report."""
        return f"{self.model}, {self.image_size} px, batch {self.batch_size}, {self.dtype}"


@dataclasses.dataclass(frozen=True)
class TrainProgram:
    """A compiled training step and what it takes.

    Attributes:
      call: Makes the next step and returns its metrics.
      images: Number of images of a step.
      figures: Compile time and memory, by their names in the report.
      hlo: Returns the text of the compiled program.
    """

    call: Callable[[], Any]
    images: int
    figures: Mapping[str, float]
    hlo: Callable[[], str]


_RESNET18 = {"num_filters": 32, "stem": "cifar"}
WORKLOADS = (
    Workload("resnet18", 32, 10, 64, "float32", _RESNET18),
    Workload("resnet18", 32, 10, 16, "bfloat16", _RESNET18),
    *(
        Workload(name, 32, 10, 64, "float32", {"stem": "cifar"}, (BASELINE, *OURS))
        for name in ("mobilenet_v2", "mnasnet_b1", "efficientnet_b0")
    ),
)
_TINY = {"num_filters": 8, "stem": "cifar", "stage_sizes": (1,)}
# Compiling a step takes seconds, however small it is.
_QUICK = (BASELINE, "EvoNorm-S0", "EvoNorm-S0, network alone")
QUICK_WORKLOADS = (Workload("resnet18", 8, 10, 4, "float32", _TINY, _QUICK),)


def measure(options: Options) -> Report:
    """Times the steps of all layers in each workload."""
    results: list[Result] = []
    for workload in QUICK_WORKLOADS if options.quick else WORKLOADS:
        contenders = {name: CONTENDERS[name] for name in workload.contenders}
        results += measure_workload(
            options, workload, contenders, sampler=functools.partial(blocking, calls=2)
        )
    return Report(
        suite="train_step",
        title="Training step of a network",
        notes=NOTES,
        results=tuple(results),
        comparisons=COMPARISONS,
    )


def measure_workload(
    options: Options,
    workload: Workload,
    contenders: Mapping[str, Contender],
    *,
    sampler: Callable[[Callable[[], Any]], Sampler],
) -> list[Result]:
    """Compiles the step of every contender, then samples them in turn."""
    programs: dict[str, TrainProgram] = {}
    refused: list[Result] = []
    for name, contender in contenders.items():
        try:
            programs[name] = compile_step(workload, contender)
        except UserError as error:  # a kernel that has no such shape or device
            refused.append(Result(workload.name, workload.name, name, note=str(error)))
            continue
        seconds = programs[name].figures["compile seconds"]
        options.log(f"{workload.name}: {name} compiled in {seconds:.1f} s")
    samplers = {name: sampler(program.call) for name, program in programs.items()}
    times = interleave(samplers, rounds=options.rounds)
    return refused + [
        Result(
            group=workload.name,
            case=workload.name,
            contender=name,
            seconds=times[name],
            figures={
                "images per second": program.images / spread(times[name]).median,
                **program.figures,
            },
        )
        for name, program in programs.items()
    ]


def made_up_images(workload: Workload) -> Pipeline:
    """Returns a pipeline of made-up images, which needs neither files nor a package for configs."""
    dataset = types.SimpleNamespace(
        **dataset_fields(
            "cifar10",
            "fake",
            image_size=workload.image_size,
            pad=workload.image_size // 8,
            num_classes=workload.num_classes,
            num_train_examples=4 * workload.batch_size,
            num_eval_examples=1,
        )
    )
    return InMemoryPipeline(fake_arrays(dataset, seed=0), dataset, seed=0)


def compile_step(workload: Workload, contender: Contender) -> TrainProgram:
    """Compiles the training step of a workload for the first device."""
    size, batch_size = workload.image_size, workload.batch_size
    pipeline = made_up_images(workload)
    model = create_model(
        workload.model, workload.num_classes, contender.layer, workload.dtype, **workload.fields
    )
    optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)
    parallel = DataParallel(jax.devices()[:1])
    train_step = make_train_step(
        model, optimizer, pipeline, per_device=batch_size, ema_decay=contender.ema_decay
    )

    def whole_step(state: TrainState, resident: Any, batch: Any) -> Any:
        return train_step(state, resident, batch, step_key(0, state.step))

    step: Any = _network_step(model, size, batch_size) if contender.network_alone else whole_step
    step = parallel.parallelize(step, donate_state=True)

    # Drawing the parameters is slow to optimise and quick to run, see Experiment.create_state.
    unoptimised = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None

    def draw() -> TrainState:
        variables = initial_variables(model, pipeline.image_shape, seed=0)
        return create_train_state(variables, optimizer, use_ema=contender.ema_decay > 0)

    state = parallel.replicate(jax.jit(draw, compiler_options=unoptimised)())
    resident = parallel.replicate(pipeline.resident())
    batches = pipeline.train_batches(start_step=0, batch_size=batch_size, hosts=parallel.hosts)
    batch = parallel.shard(next(batches))

    start = time.perf_counter()
    program = step.lower(state, resident, batch).compile()
    seconds = time.perf_counter() - start

    def call() -> Any:
        nonlocal state
        state, metrics = program(state, resident, batch)
        return metrics

    figures = {"compile seconds": seconds, **memory_figures(program)}
    return TrainProgram(call, batch_size, figures, program.as_text)


def _network_step(model: nn.Module, size: int, batch_size: int) -> Callable[..., Any]:
    """Returns a step that computes the gradients of the network and leaves the state as it is."""

    def step(state: TrainState, resident: Any, batch: Any) -> tuple[TrainState, Any]:
        # The same images every time; as the state is not constant, nothing is computed beforehand.
        images = jnp.full((batch_size, size, size, 3), 0.5) + state.step

        def loss(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, **state.collections}
            mutable = list(state.collections)
            logits, updates = model.apply(variables, images, train=True, mutable=mutable)
            return jnp.mean(jax.nn.logsumexp(logits, axis=-1)), updates

        (value, updates), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        return state, jax.lax.pmean((value, updates, gradients), AXIS)

    return step


def memory_figures(program: Any) -> dict[str, float]:
    """Returns the memory that a compiled program takes, by its names in the report."""
    temporaries = program.memory_analysis().temp_size_in_bytes
    return {"temporaries, MB": temporaries / 1e6, "all memory, MB": peak_bytes(program) / 1e6}
