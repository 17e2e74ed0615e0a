"""Training steps of the paper's transfer tasks on a GPU: images per second and memory.

Mask R-CNN of ResNet-50 and FPN at 1024 pixels, and BigGAN-deep at 128: the steps of
`configs/coco_maskrcnn_r50_fpn_*.py` and `configs/biggan_deep_imagenet128_*.py` in bfloat16 on one
device, with images that need no file.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax

from evonorm_jax.benchmarks.deadline import Deadline
from evonorm_jax.benchmarks.gpu import require_gpu
from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.suite import Options
from evonorm_jax.benchmarks.timing import interleave, queued, spread
from evonorm_jax.benchmarks.train_step import TrainProgram, memory_figures
from evonorm_jax.data.instances import instance_dataset_config
from evonorm_jax.errors import UserError
from evonorm_jax.training.experiment import create_experiment

if TYPE_CHECKING:
    import ml_collections

BASELINE = "BN-ReLU"
LAYERS: Mapping[str, str] = {
    BASELINE: "bn_relu",
    "EvoNorm-S0": "evonorm_s0",
    "EvoNorm-B0": "evonorm_b0",
    "GN-ReLU": "gn_relu",
}
#: Config without its layer: the images of a batch. A GPU of 80 GB should hold them.
BATCH_SIZES: Mapping[str, int] = {"coco_maskrcnn_r50_fpn": 4, "biggan_deep_imagenet128": 64}
NOTES = (
    "A whole step of the training loop on one device, with the optimizers of the recipe. The "
    "detector trains on scenes of up to six digits that the step draws, with 11 classes instead of "
    "COCO's 91; the generator on made-up images.",
    "A step of BigGAN-deep is two updates of the discriminator and one of the generator, each with "
    "a batch of its own; images per second are those of the batches of real images.",
    "`all memory` is what the compiled step needs at once: state, batch, activations, scratch.",
)
IMAGES = "images a step"
#: Seconds that compiling the next step may take, before it is left out.
_COMPILE_SECONDS = 60.0


def measure(options: Options) -> Report:
    """Compiles the steps one by one, and samples all those of a network in turn.

    Raises:
      UserError: There is no GPU, or the package is installed without the configs of a clone.
    """
    require_gpu(options)
    deadline = Deadline(options.minutes)
    layers = list(LAYERS)[:2] if options.quick else list(LAYERS)
    results: dict[tuple[str, str], Result] = {}

    def report() -> Report:
        return Report(
            "gpu_transfer",
            "Training steps of a detector and of a generator on one GPU",
            NOTES,
            tuple(results.values()),
            tuple((name, BASELINE) for name in LAYERS if name != BASELINE),
        )

    for network in BATCH_SIZES:
        programs: dict[str, TrainProgram] = {}
        for layer in layers:
            # Unless it is compiled, and replaced by what is measured below.
            results[network, layer] = Result(network, network, layer, note=deadline.note)
            if deadline.remaining < _COMPILE_SECONDS:
                continue
            start = time.monotonic()
            try:
                programs[layer] = compile_step(transfer_config(network, layer, options.quick))
            except jax.errors.JaxRuntimeError as error:  # out of memory
                note = str(error).splitlines()[0]
                results[network, layer] = Result(network, network, layer, note=note)
                continue
            options.log(f"{network}: {layer} compiled in {time.monotonic() - start:.1f} s")
        samplers = {name: queued(program.call, calls=2) for name, program in programs.items()}
        for layer, seconds in interleave(samplers, rounds=options.rounds).items():
            program = programs[layer]
            images = program.figures[IMAGES] / spread(seconds).median
            figures = {"images per second": images, **program.figures}
            results[network, layer] = Result(network, network, layer, seconds, figures)
        options.save(report())
    return report()


def transfer_config(network: str, layer: str, quick: bool) -> ml_collections.ConfigDict:
    """Returns the recipe of a network for one device, on images that need no file.

    Args:
      network: Name in `BATCH_SIZES`.
      layer: Name in `LAYERS`.
      quick: Whether to shrink the network and its images to those of a smoke run.

    Raises:
      UserError: The package is installed without the configs of a clone.
    """
    name = f"configs.{network}_{LAYERS[layer]}"
    try:
        recipe = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"The gpu_transfer suite trains by {name.replace('.', '/')}.py, and there is no such "
            "file: run it in a clone of the repository."
        ) from error
    config = recipe.get_config("smoke" if quick else "")
    config.num_workers = 1
    config.images_per_worker = 2 if quick else BATCH_SIZES[network]
    if not quick:
        examples = {"num_train_examples": 512, "num_eval_examples": 1}
        if config.task == "instance_segmentation":
            sizes = {"image_size": config.dataset.image_size, "mask_size": config.dataset.mask_size}
            config.dataset = instance_dataset_config(
                "digit_scenes", "generated", **sizes, **examples
            )
        else:
            fake = {"source": "fake", "in_memory": True, "num_classes": 1000}
            config.dataset.update(fake | examples)
    return config


def compile_step(config: ml_collections.ConfigDict) -> TrainProgram:
    """Compiles the training step of a config for the first device."""
    run = create_experiment(config, jax.devices()[:1])
    state = run.parallel.replicate(run.create_state())
    resident = run.parallel.replicate(run.pipeline.resident())
    batches = run.pipeline.train_batches(
        start_step=0, batch_size=run.images_per_step, hosts=run.parallel.hosts
    )
    batch = run.parallel.shard(next(batches))

    start = time.perf_counter()
    step, program = run.compile_train_step(state, resident, batch)
    seconds = time.perf_counter() - start

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, resident, batch)
        return metrics

    figures = {
        IMAGES: run.images_per_step,
        "compile seconds": seconds,
        **memory_figures(program),
    }
    return TrainProgram(call, figures, program.as_text)
