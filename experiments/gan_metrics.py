r"""Measures the images that the generator of a run draws: Frechet distance, recall and others.

Examples:
  python -m experiments.gan_metrics --workdir runs/biggan_deep_digits_evonorm_s0
  python -m experiments.gan_metrics --workdir runs/biggan --config.figures.num_samples=50000 \
      --config.figures.network=weights-inception-2015-12-05-6726825d.safetensors
  python -m experiments.gan_metrics --workdir runs/biggan --images samples.npz

What sees the images, how many there are and what they are compared with is in `config.figures` of
the run and can be overridden. With FID's Inception network (experiments.convert_inception) the
figures are fid, kid, inception_score, precision and recall; with a classifier of this project they
are called classifier_fid and so on, and compare with nothing published. Prints one JSON object:
beside each figure the same of real images that the reference does not hold (_real), and the numbers
of images.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.npz_file import NpzFile
from experiments import launch
from experiments.process import run_main


def main() -> None:
    """Parses the command line, draws and measures."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.gan_metrics",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workdir", type=launch.user_path, required=True, help="run directory of experiments.train"
    )
    parser.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    parser.add_argument(
        "--newest_weights", action="store_true", help="not the averages, although there are any"
    )
    parser.add_argument(
        "--truncation",
        type=float,
        help="truncation of the noise, above 0 and at most 1 (default: none)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    parser.add_argument(
        "--images",
        type=launch.user_path,
        metavar="FILE.npz",
        help="measure these, as experiments.sample writes them",
    )
    arguments, overrides = parser.parse_known_args()

    from evonorm_jax.gan.sampling import check_truncation
    from evonorm_jax.training.run_directory import read_config

    check_truncation(arguments.truncation)
    config = launch.override(read_config(arguments.workdir), overrides)
    launch.start_jax()
    print(json.dumps(measure(arguments, config), indent=2))


def measure(arguments: argparse.Namespace, config: Any) -> dict[str, Any]:
    """Draws or reads the images, and returns what is printed.

    Raises:
      UserError: The run has no generator, or the images or the network do not fit.
    """
    from evonorm_jax.data import create_pipeline
    from evonorm_jax.gan.report import scalars
    from evonorm_jax.training.sample_figures import SampleFigures
    from evonorm_jax.training.trained_generator import check_task, load_generator

    check_task(config, arguments.workdir)
    if not config.figures.network:
        raise UserError(
            "config.figures.network is empty: name what is to see the images, for example "
            "--config.figures.network=FILE with a file of experiments.export or "
            "experiments.convert_inception."
        )
    pipeline = create_pipeline(config.dataset, seed=config.seed, evaluation_only=True)
    figures = SampleFigures(config, pipeline)
    if arguments.images:
        images, labels = read_images(arguments.images, pipeline.image_shape)
        source: dict[str, Any] = {"images": str(arguments.images)}
    else:
        generator = load_generator(
            arguments.workdir,
            arguments.step,
            newest_weights=arguments.newest_weights,
            config=config,
        )
        images, labels = generator.samples(
            figures.num_samples, truncation=arguments.truncation, seed=arguments.seed
        )
        source = {
            "step": generator.step,
            "weights": "newest" if arguments.newest_weights or not config.ema_decay else "averages",
            "truncation": arguments.truncation,
            "seed": arguments.seed,
        }
    measured = figures.measure(images, labels)
    return {
        **source,
        "network": figures.network.identity,
        "reference": measured[0].reference,
        **scalars(measured),
    }


def read_images(path: Path, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Reads the arrays that `experiments.sample --npz` writes.

    Raises:
      UserError: The file is not there or holds others, or images of another shape.
    """
    try:
        with NpzFile(path) as file:
            images, labels = file.read("images"), file.read("labels")
    except UserError as error:
        raise UserError(
            f"--images={path}: expected an .npz file with the arrays images and labels ({error})"
        ) from error
    if images.dtype != np.uint8 or labels.dtype.kind not in "iu" or len(images) != len(labels):
        raise UserError(
            f"--images={path} has images of {images.dtype} {list(images.shape)} and labels of "
            f"{labels.dtype} {list(labels.shape)}, but must have uint8 and as many integers."
        )
    if images.shape[1:] != shape:
        raise UserError(
            f"--images={path} has images of shape {images.shape[1:]}, but those of the data set "
            f"have shape {shape}."
        )
    return images, labels


if __name__ == "__main__":
    run_main(main)
