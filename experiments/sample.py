r"""Draws images from the generator of a run: as a sheet, as files, or as arrays.

Examples:
  python -m experiments.sample --workdir runs/biggan_deep_digits_evonorm_s0
  python -m experiments.sample --workdir runs/biggan --classes 207,250 --truncation 0.5 \
      --count 20 --sheet dogs.png
  python -m experiments.sample --workdir runs/biggan --count 50000 --npz samples.npz

Image i has class i modulo the number of classes, and noise from the seed and i. The weights are the
run's averages where it kept them; layers with batch statistics get standing ones. The data set is
not needed.
"""

import argparse
from pathlib import Path

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.run_files import replacing
from experiments import launch
from experiments.process import run_main

_DEFAULT_SHEET = "samples.png"


def main() -> None:
    """Parses the command line and draws."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sample",
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
    parser.add_argument("--classes", help="numbers of classes, such as 207,250 (default: all)")
    parser.add_argument("--count", type=int, default=100, help="images in all (default: 100)")
    parser.add_argument(
        "--truncation",
        type=float,
        help="truncation of the noise, above 0 and at most 1 (default: none)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    output = parser.add_argument_group("what to write")
    output.add_argument(
        "--sheet",
        type=launch.user_path,
        metavar="FILE.png",
        help=f"all images as one, by class (default: {_DEFAULT_SHEET}, if nothing else is named)",
    )
    output.add_argument(
        "--folder", type=launch.user_path, metavar="FOLDER", help="a PNG file for each image"
    )
    output.add_argument(
        "--npz",
        type=launch.user_path,
        metavar="FILE.npz",
        help="arrays: images (uint8) and labels",
    )
    output.add_argument("--overwrite", action="store_true", help="replace what is there")
    arguments = parser.parse_args()
    check_arguments(arguments)
    launch.start_jax()

    from evonorm_jax.training.trained_generator import load_generator

    generator = load_generator(
        arguments.workdir, arguments.step, newest_weights=arguments.newest_weights
    )
    classes = parse_classes(arguments.classes, generator.gan.num_classes)
    labels = np.resize(np.asarray(classes), arguments.count)
    images = generator.samples_of(labels, truncation=arguments.truncation, seed=arguments.seed)
    print(f"{len(images)} images of {len(set(labels))} classes, step {generator.step}:")
    write(arguments, images, labels, len(classes))


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuses what can be seen to be wrong before anything is read.

    Raises:
      UserError: An argument is; the message names it.
    """
    from evonorm_jax.gan.sampling import check_truncation

    if arguments.count < 1:
        raise UserError(f"--count={arguments.count}: it must be at least 1.")
    check_truncation(arguments.truncation)
    for name, ending in (("sheet", ".png"), ("npz", ".npz")):
        path = getattr(arguments, name)
        if path is not None and not path.name.endswith(ending):
            raise UserError(f"--{name}={path}: name a file that ends in {ending}.")
    if not (arguments.sheet or arguments.folder or arguments.npz):
        arguments.sheet = Path(_DEFAULT_SHEET)
    for name in ("sheet", "npz"):
        if path := getattr(arguments, name):
            launch.check_output(path, f"--{name}", overwrite=arguments.overwrite)
    if arguments.folder:
        launch.check_output_folder(arguments.folder, "--folder", overwrite=arguments.overwrite)


def parse_classes(text: str | None, num_classes: int) -> list[int]:
    """Reads numbers of classes.

    >>> parse_classes("2,0", 3), parse_classes(None, 3)
    ([2, 0], [0, 1, 2])

    Raises:
      UserError: One is no number, or not one of the generator's classes.
    """
    if text is None:
        return list(range(num_classes))
    try:
        classes = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--classes={text}: expected numbers joined by commas: 207,250.") from None
    if wrong := [number for number in classes if not 0 <= number < num_classes]:
        raise UserError(
            f"--classes={text}: class {wrong[0]} is out of range; the generator knows 0 to "
            f"{num_classes - 1}."
        )
    return classes


def write(
    arguments: argparse.Namespace, images: np.ndarray, labels: np.ndarray, num_classes: int
) -> None:
    """Writes what was asked for, and says where it is."""
    from evonorm_jax.gan.sheets import write_png, write_sheet

    if arguments.sheet:
        write_sheet(arguments.sheet, by_class(images, num_classes))
        print(f"  sheet   {arguments.sheet}")
    if arguments.folder:
        digits = len(str(len(images) - 1))
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            write_png(arguments.folder / f"{i:0{digits}}_class{label}.png", image)
        print(f"  folder  {arguments.folder}")
    if arguments.npz:
        with replacing(arguments.npz) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, images=images, labels=labels)
        print(f"  arrays  {arguments.npz}")


def by_class(images: np.ndarray, num_classes: int) -> np.ndarray:
    """Lays images `[N, ...]` out as `[rows, columns, ...]`, the rest white.

    A row has one class where every class has several images; otherwise rows are filled in order.
    """
    count = len(images)
    columns = -(-count // num_classes) if count >= 2 * num_classes else int(np.ceil(count**0.5))
    rows = num_classes if count >= 2 * num_classes else -(-count // columns)
    white = np.full((rows * columns - count, *images.shape[1:]), 255, images.dtype)
    cells = np.concatenate([images, white])
    if count >= 2 * num_classes:
        return cells.reshape(columns, rows, *images.shape[1:]).swapaxes(0, 1)
    return cells.reshape(rows, columns, *images.shape[1:])


if __name__ == "__main__":
    run_main(main)
