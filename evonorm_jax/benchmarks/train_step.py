"""One training step of a small ResNet: how much of a layer's gain is left in a network."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from evonorm_jax.benchmarks import rivals
from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.suite import Options
from evonorm_jax.benchmarks.timing import Sampler, blocking, interleave, spread
from evonorm_jax.data import create_pipeline, dataset_config
from evonorm_jax.layers.norm_act import LayerLike, norm_act
from evonorm_jax.models import create_model
from evonorm_jax.training.parallel import DataParallel
from evonorm_jax.training.state import TrainState, create_train_state, initial_variables
from evonorm_jax.training.steps import make_train_step

BASELINE = "BN-ReLU, Flax"
LAYERS: Mapping[str, LayerLike] = {
    BASELINE: functools.partial(rivals.FlaxBatchNormReLU),
    "BN-ReLU": "bn_relu",
    "EvoNorm-S0": "evonorm_s0",
    "EvoNorm-B0": "evonorm_b0",
    "EvoNorm-S0, plain": norm_act("evonorm_s0", implementation="reference"),
    "EvoNorm-B0, plain": norm_act("evonorm_b0", implementation="reference"),
}
OURS = ("BN-ReLU", "EvoNorm-S0", "EvoNorm-B0")
COMPARISONS = (
    *((name, BASELINE) for name in OURS),
    *((name, f"{name}, plain") for name in OURS if name != "BN-ReLU"),
)
NOTES = (
    "A whole step of `make_train_step`: augmentation, forward and backward pass, SGD with "
    "momentum; made-up images in device memory.",
    "Compile seconds include tracing. Temporaries are the scratch memory of the compiled step.",
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is trained: network, images and batch.

    Attributes:
      model: a name that `create_model` knows.
      image_size: pixels.
      num_classes: of the made-up labels.
      batch_size: images a step.
      dtype: "float32" or "bfloat16".
      fields: of the network.
    """

    model: str
    image_size: int
    num_classes: int
    batch_size: int
    dtype: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """For the report."""
        return f"{self.model}, {self.image_size} px, batch {self.batch_size}, {self.dtype}"


@dataclasses.dataclass(frozen=True)
class TrainProgram:
    """A compiled training step and what it takes.

    Attributes:
      call: makes the next step and returns its metrics.
      figures: compile time and memory, for the report.
    """

    call: Callable[[], Any]
    figures: Mapping[str, float]


_RESNET18 = {"num_filters": 32, "stem": "cifar"}
WORKLOADS = (
    Workload("resnet18", 32, 10, 64, "float32", _RESNET18),
    Workload("resnet18", 32, 10, 16, "bfloat16", _RESNET18),
)
_TINY = {"num_filters": 8, "stem": "cifar", "stage_sizes": (1,)}
QUICK_WORKLOADS = (Workload("resnet18", 8, 10, 4, "float32", _TINY),)
QUICK_LAYERS = (BASELINE, "EvoNorm-S0")  # compiling a step takes seconds, however small it is


def measure(options: Options) -> Report:
    """Times the steps of all layers in each workload."""
    results: list[Result] = []
    layers = {name: LAYERS[name] for name in (QUICK_LAYERS if options.quick else LAYERS)}
    for workload in QUICK_WORKLOADS if options.quick else WORKLOADS:
        results += measure_workload(
            options, workload, layers, sampler=functools.partial(blocking, calls=2)
        )
    return Report(
        suite="train_step",
        title="Training step of a ResNet",
        notes=NOTES,
        results=tuple(results),
        comparisons=COMPARISONS,
    )


def measure_workload(
    options: Options,
    workload: Workload,
    layers: Mapping[str, LayerLike],
    *,
    sampler: Callable[[Callable[[], Any]], Sampler],
) -> list[Result]:
    """Compiles the step with every layer, then samples them in turn."""
    programs = {}
    for name, layer in layers.items():
        programs[name] = compile_step(workload, layer)
        seconds = programs[name].figures["compile seconds"]
        options.log(f"{workload.name}: {name} compiled in {seconds:.1f} s")
    samplers = {name: sampler(program.call) for name, program in programs.items()}
    times = interleave(samplers, rounds=options.rounds)
    return [
        Result(
            group=workload.name,
            case=workload.name,
            contender=name,
            seconds=times[name],
            figures={
                "images per second": workload.batch_size / spread(times[name]).median,
                **program.figures,
            },
        )
        for name, program in programs.items()
    ]


def compile_step(workload: Workload, layer: LayerLike) -> TrainProgram:
    """Compiles the training step of a workload with a layer, on the first device."""
    size, batch_size = workload.image_size, workload.batch_size
    pipeline = create_pipeline(
        dataset_config(
            "cifar10",
            "fake",
            image_size=size,
            pad=size // 8,
            num_classes=workload.num_classes,
            num_train_examples=4 * batch_size,
            num_eval_examples=1,
        ),
        seed=0,
    )
    model = create_model(
        workload.model, workload.num_classes, layer, workload.dtype, **workload.fields
    )
    optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)
    parallel = DataParallel(jax.devices()[:1])
    step: Any = parallel.parallelize(
        make_train_step(model, optimizer, pipeline, seed=0, per_device=batch_size),
        donate_state=True,
    )

    # Drawing the parameters is slow to optimise and quick to run, see Experiment.create_state.
    unoptimised = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None

    def draw() -> TrainState:
        variables = initial_variables(model, pipeline.image_shape, seed=0, use_ema=False)
        return create_train_state(optimizer, variables)

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

    return TrainProgram(call, {"compile seconds": seconds, **_memory_figures(program)})


def _memory_figures(program: Any) -> dict[str, float]:
    memory = program.memory_analysis()
    # Donated inputs and the outputs in their place are the same memory.
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    return {"temporaries, MB": memory.temp_size_in_bytes / 1e6, "all memory, MB": peak / 1e6}
