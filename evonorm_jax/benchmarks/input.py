"""Images per second of the data pipelines, and what working ahead of the device is worth."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from evonorm_jax.benchmarks.results import Report, Result
from evonorm_jax.benchmarks.suite import Options
from evonorm_jax.benchmarks.timing import interleave, spread
from evonorm_jax.data import Pipeline, create_pipeline, dataset_config, prefetch_to_devices
from evonorm_jax.training.parallel import DataParallel

ALONE = "input alone"
IN_TURN = "busy device, in turn"
AHEAD = "busy device, prefetched"

COMPARISONS = ((AHEAD, IN_TURN), (AHEAD, ALONE))
NOTES = (
    "Times are those of one batch of normalised images in device memory.",
    f"`{ALONE}`: nothing else is done, so this is the most a pipeline gives.",
    "`busy device`: it needs as long for a batch as the input does, played by waiting, which "
    f"leaves the processor free as an accelerator does. `{IN_TURN}` makes a batch, then waits; "
    f"`{AHEAD}` makes the next one meanwhile, as training does. Perfect overlap halves the time.",
    "tf.data works ahead by itself, so its two differ less.",
    "Files are read from the page cache: this measures decoding, not the disk.",
)


@dataclasses.dataclass(frozen=True)
class Source:
    """A pipeline to be measured.

    Attributes:
      name: Name of the pipeline in the report.
      config: Config of the dataset, as in `config.dataset`.
      batch_size: Number of images in a batch.
      batches: Number of batches that one sample takes.
      figures: Further numbers for the report, by name.
    """

    name: str
    config: ml_collections.ConfigDict
    batch_size: int
    batches: int
    figures: dict[str, float] = dataclasses.field(default_factory=dict)


def measure(options: Options) -> Report:
    """Times images held in memory, images made up on the host, and JPEGs of a class folder.

    Raises:
      UserError: `options.data` is no class folder.
    """
    size, batch_size = (16, 4) if options.quick else (224, 32)
    in_memory = dataset_config(
        "cifar10", "fake", num_train_examples=10_000, num_eval_examples=1, num_classes=10
    )
    fake = dataset_config(
        "imagenet2012",
        "fake",
        image_size=size,
        resize_size=size,
        num_train_examples=1_281_167,
        num_eval_examples=1,
        num_classes=1000,
    )
    batches = 3 if options.quick else 8
    results = _measure_source(options, Source("in memory, 32 px", in_memory, 128, 4 * batches))
    results += _measure_source(options, Source(f"made up, {size} px", fake, batch_size, batches))
    results += _measure_folder(options, size, batch_size, batches)
    return Report(
        suite="input",
        title="Input pipelines",
        notes=NOTES,
        results=tuple(results),
        comparisons=COMPARISONS,
    )


def _measure_folder(options: Options, size: int, batch_size: int, batches: int) -> list[Result]:
    name = f"class folder of JPEGs, {size} px"
    if importlib.util.find_spec("tensorflow") is None:
        missing = "TensorFlow is not installed"
        return [
            Result(name, name, contender, note=missing) for contender in (ALONE, IN_TURN, AHEAD)
        ]
    with tempfile.TemporaryDirectory(prefix="evonorm_jax_") as scratch:
        root = Path(options.data) if options.data else Path(scratch)
        figures = {}
        if options.data is None:
            images = 2 * batch_size if options.quick else 256
            pixels = (20, 24) if options.quick else (375, 500)  # the usual size in ImageNet
            figures["kB a JPEG"] = make_class_folder(root, images, pixels) / 1e3
        config = dataset_config("own", "folder", path=str(root), image_size=size, resize_size=size)
        return _measure_source(options, Source(name, config, batch_size, batches, figures))


def make_class_folder(root: Path, num_images: int, pixels: tuple[int, int]) -> float:
    """Writes a class folder of JPEGs of noise and waves; returns their mean size in bytes.

    Args:
      root: Folder to write to; it gets `train/<class>/` with `num_images` images and
        `val/<class>/` with two, of both classes together.
      num_images: Number of training images of both classes together.
      pixels: Height and width of the images, in pixels.
    """
    from PIL import Image

    rng = np.random.default_rng(0)
    height, width = pixels
    rows, columns = np.mgrid[0:height, 0:width]
    sizes = []
    for split, number in (("train", num_images), ("val", 2)):
        for index in range(number):
            # Detail as photographs have: 110 kB at 375x500 pixels, the mean of ImageNet.
            waves = 60 * np.sin(rows / 40 + index) + 40 * np.cos(columns / 30 - index)
            noise = rng.normal(0, 14, (height, width, 3))
            image = np.clip(127 + waves[..., None] + noise, 0, 255).astype(np.uint8)
            path = root / split / f"class_{index % 2}" / f"{index:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, quality=90)
            sizes.append(path.stat().st_size)
    return float(np.mean(sizes))


def _measure_source(options: Options, source: Source) -> list[Result]:
    parallel = DataParallel(jax.devices()[:1])
    pipeline = create_pipeline(source.config, seed=0)
    finish = _compile_finish(pipeline, parallel, source.batch_size)
    sample = functools.partial(_sample, pipeline, parallel, finish, source)
    busy = spread([sample(prefetch=True, busy=0.0) for _ in range(2 if options.quick else 3)]).low
    seconds = interleave(
        {
            ALONE: lambda: sample(prefetch=True, busy=0.0),
            IN_TURN: lambda: sample(prefetch=False, busy=busy),
            AHEAD: lambda: sample(prefetch=True, busy=busy),
        },
        rounds=options.rounds,
    )
    options.log(f"{source.name}: {spread(seconds[ALONE]).median * 1e3:.1f} ms a batch")
    return [
        Result(
            group=source.name,
            case=f"batch {source.batch_size}",
            contender=name,
            seconds=times,
            figures={"images per second": source.batch_size / spread(times).median}
            | source.figures,
        )
        for name, times in seconds.items()
    ]


def _sample(
    pipeline: Pipeline,
    parallel: DataParallel,
    finish: Callable[[Any], Any],
    source: Source,
    *,
    prefetch: bool,
    busy: float,
) -> float:
    """Measures the seconds a batch takes once what was read ahead has been used up."""
    warmup = 4  # more than prefetch_to_devices and tf.data hold ready
    host_batches = pipeline.train_batches(
        start_step=0, batch_size=source.batch_size, hosts=parallel.hosts
    )
    if prefetch:
        with prefetch_to_devices(host_batches, parallel.shard) as batches:
            return _drain(batches, finish, warmup, source.batches, busy)
    try:
        return _drain(map(parallel.shard, host_batches), finish, warmup, source.batches, busy)
    finally:
        host_batches.close()  # type: ignore[attr-defined]  # a generator, in every pipeline


def _drain(
    batches: Iterator[Any], finish: Callable[[Any], Any], warmup: int, number: int, busy: float
) -> float:
    start = 0.0
    for index, batch in enumerate(itertools.islice(batches, warmup + number)):
        if index == warmup:
            start = time.perf_counter()
        jax.block_until_ready(finish(batch))
        if busy:
            time.sleep(busy)
    return (time.perf_counter() - start) / number


def _compile_finish(
    pipeline: Pipeline, parallel: DataParallel, batch_size: int
) -> Callable[[Any], Any]:
    """Compiles what the training step does to a batch before the network sees it."""
    resident = parallel.replicate(pipeline.resident())
    keys = jax.random.split(jax.random.key(0), batch_size)

    @jax.jit
    def examples(resident: Any, batch: Any, keys: jax.Array) -> Any:
        return pipeline.train_examples(resident, jax.tree.map(lambda x: x[0], batch), keys)

    return lambda batch: examples(resident, batch, keys)
