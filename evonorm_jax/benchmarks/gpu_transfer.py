"""Training steps of the paper's transfer tasks on a GPU: images per second and memory.

Mask R-CNN of ResNet-50 and FPN at 1024 pixels, and BigGAN-deep at 128: the steps of
`configs/coco_maskrcnn_r50_fpn_*.py` and `configs/biggan_deep_imagenet128_*.py` in bfloat16 on one
device, with images that need no file.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax

from evonorm_jax.benchmarks.deadline import Deadline
from evonorm_jax.benchmarks.gpu import require_gpu
from evonorm_jax.benchmarks.gpu_steps import Steps
from evonorm_jax.benchmarks.results import Report
from evonorm_jax.benchmarks.suite import Options
from evonorm_jax.benchmarks.train_step import TrainProgram, memory_figures
from evonorm_jax.data.instances import instance_dataset_config
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
#: Seconds that compiling the next step may take, before it is left out.
_COMPILE_SECONDS = 60.0


def measure(options: Options) -> Report:
    """Compiles the steps one by one, and samples all those of a network in turn.

    Raises:
      UserError: There is no GPU, or a config is not there.
    """
    require_gpu(options)
    deadline = Deadline(options.minutes)
    layers = list(LAYERS)[:2] if options.quick else list(LAYERS)
    networks = [
        Steps(
            network,
            {
                layer: functools.partial(compile_step, transfer_config(network, layer, options))
                for layer in layers
            },
        )
        for network in BATCH_SIZES
    ]

    def report() -> Report:
        return Report(
            "gpu_transfer",
            "Training steps of a detector and of a generator on one GPU",
            NOTES,
            tuple(result for steps in networks for result in steps.results()),
            tuple((name, BASELINE) for name in LAYERS if name != BASELINE),
        )

    for steps in networks:
        steps.measure(
            options,
            deadline,
            lambda: options.save(report()),
            compile_seconds=_COMPILE_SECONDS,
        )
    return report()


def transfer_config(network: str, layer: str, options: Options) -> ml_collections.ConfigDict:
    """Returns the recipe of a network for one device, on images that need no file.

    Args:
      network: Name in `BATCH_SIZES`.
      layer: Name in `LAYERS`.
      options: Options of the command line. A quick run gets the network and images of a smoke run.
    """
    assert options.load_config is not None, "given by experiments.benchmark"
    file = f"configs/{network}_{LAYERS[layer]}.py"
    config = options.load_config(f"{file}:smoke" if options.quick else file)
    config.num_workers = 1
    config.images_per_worker = 2 if options.quick else BATCH_SIZES[network]
    if options.quick:
        return config
    examples = {"num_train_examples": 512, "num_eval_examples": 1}
    if config.task == "instance_segmentation":
        sizes = {"image_size": config.dataset.image_size, "mask_size": config.dataset.mask_size}
        config.dataset = instance_dataset_config("digit_scenes", "generated", **sizes, **examples)
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

    figures = {"compile seconds": seconds, **memory_figures(program)}
    return TrainProgram(call, run.images_per_step, figures, program.as_text)
