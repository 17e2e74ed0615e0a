r"""Says what the network of a run sees in images: a table, or JSON, CSV and drawings.

Examples:
  python -m experiments.predict --workdir runs/digits_resnet_evonorm_s0 three.png photos/
  python -m experiments.predict --workdir runs/flowers 'photos/**/*.jpg' --top_k=3 --csv=flowers.csv
  python -m experiments.predict --workdir runs/nuclei slide.png --json=found.json --draw=drawn

Images are named as files, folders (with all folders in them) or globs. They are cropped, resized
and normalised as the run's evaluations did it. The weights are the run's averages where it kept
them. A detector's JSON has COCO's format for results, with the place of the image in the list, from
1, as its id, and holds everything that was found, as average precision needs it.
Exit code: 0 done, 1 some images could not be read and are named, 2 wrong input.
"""

import argparse
import contextlib
import csv
import glob
import itertools
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from evonorm_jax.errors import UserError
from experiments import launch
from experiments.process import run_main

STDOUT = Path("-")
_SHARES = ("probability", "score")  # columns that a table shows in percent


def main() -> None:
    """Parses the command line and predicts."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="file, folder or 'glob'")
    parser.add_argument(
        "--workdir", type=launch.user_path, required=True, help="run directory of experiments.train"
    )
    parser.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    parser.add_argument(
        "--newest_weights", action="store_true", help="not the averages, although there are any"
    )
    parser.add_argument("--top_k", type=int, help="of a classifier: classes shown (default: 5)")
    parser.add_argument(
        "--min_score", type=float, help="of a detector: lowest score shown, 0 to 1 (default: 0.5)"
    )
    parser.add_argument(
        "--batch_size", type=int, help="images at a time (default: 32; 4 of a detector)"
    )
    output = parser.add_argument_group("what to write, instead of a table on the terminal")
    for name, metavar, text in (
        ("--json", "FILE", "a list of objects; - for the terminal"),
        ("--csv", "FILE", "a line for each row; - for the terminal"),
        ("--draw", "FOLDER", "of a detector: what it found, as PNG"),
    ):
        output.add_argument(name, type=launch.user_path, metavar=metavar, help=text)
    output.add_argument("--overwrite", action="store_true", help="replace what is there")
    arguments = parser.parse_args()
    check_arguments(arguments)
    paths = find_images(arguments.images)
    launch.start_jax()
    logging.getLogger("evonorm_jax").setLevel(logging.WARNING)  # training has said the rest

    from evonorm_jax.training import load_run

    run = load_run(arguments.workdir, arguments.step, newest_weights=arguments.newest_weights)
    options = chosen_options(arguments, run.options)
    if arguments.draw and not run.draws:
        raise UserError(
            f"--draw={arguments.draw}: the networks of {arguments.workdir} name what is in images "
            "and find no places in them; leave it out."
        )
    unreadable: list[UserError] = []
    predictions = run.predict_files(
        paths, unreadable=unreadable.append, batch_size=arguments.batch_size, **options
    )
    write(arguments, predictions)
    for error in unreadable:
        print(f"predict: {error}", file=sys.stderr)
    if unreadable:
        print(f"predict: {len(unreadable)} of {len(paths)} images were skipped.", file=sys.stderr)
        sys.exit(1)


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuses what can be seen to be wrong before anything is read.

    Raises:
      UserError: An argument is; the message names it.
    """
    for name in ("batch_size", "top_k"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}={value}: it must be at least 1.")
    if arguments.min_score is not None and not 0 <= arguments.min_score <= 1:
        raise UserError(f"--min_score={arguments.min_score}: it must be from 0 to 1.")
    if arguments.json == arguments.csv == STDOUT:
        raise UserError("--json=- and --csv=- cannot both go to the terminal: name a file for one.")
    for name in ("json", "csv"):
        path = getattr(arguments, name)
        if path and path != STDOUT:
            launch.check_output(path, f"--{name}", overwrite=arguments.overwrite)
    if arguments.draw:
        launch.check_output_folder(arguments.draw, "--draw", overwrite=arguments.overwrite)


def chosen_options(arguments: argparse.Namespace, known: Iterable[str]) -> dict[str, Any]:
    """Returns the options of the run's own kind that were given.

    Raises:
      UserError: One is of another kind of run.
    """
    given = {name: getattr(arguments, name) for name in ("top_k", "min_score")}
    chosen = {name: value for name, value in given.items() if value is not None}
    if wrong := [name for name in chosen if name not in known]:
        there = " and ".join(f"--{name}" for name in known) or "no such option"
        raise UserError(
            f"--{wrong[0]}: the networks of {arguments.workdir} have {there}; leave it out."
        )
    return chosen


def find_images(names: Iterable[str]) -> list[str]:
    """Lists files, the images in folders, and what globs match, each once.

    A file that is named itself is taken whatever its ending. Hidden files and folders are left out
    elsewhere.

    Raises:
      UserError: A name stands for no file.
    """
    from evonorm_jax.data.folder_scan import EXTENSIONS

    found: dict[str, None] = {}
    for name in map(os.path.expanduser, names):  # the shell leaves a quoted glob alone
        if os.path.isdir(name):
            files = sorted(_images_in(name, EXTENSIONS))
        elif os.path.exists(name):
            files = [name]
        else:
            files = [
                path for path in sorted(glob.glob(name, recursive=True)) if os.path.isfile(path)
            ]
        if not files:
            where = "has" if os.path.isdir(name) else "is no file, no folder, and matches"
            raise UserError(
                f"'{name}' {where} no images: name files, globs, or folders with images of the "
                f"endings {', '.join(EXTENSIONS)}."
            )
        found |= dict.fromkeys(files)
    return list(found)


def _images_in(folder: str, endings: tuple[str, ...]) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(endings) and not name.startswith("."):
                yield os.path.join(root, name)


def write(arguments: argparse.Namespace, predictions: Iterable[Any]) -> None:
    """Writes predictions as they come, and says where they are."""
    with contextlib.ExitStack() as files:
        outputs = []
        for name, kind in (("json", JsonOutput), ("csv", CsvOutput)):
            if path := getattr(arguments, name):
                stream = files.enter_context(_opened(path))
                outputs.append(files.enter_context(kind(stream)))
        if arguments.draw:
            outputs.append(files.enter_context(DrawnOutput(arguments.draw)))
        if not outputs:
            outputs.append(files.enter_context(TableOutput(sys.stdout)))
        for prediction in predictions:
            for output in outputs:
                output.add(prediction)
    for name in ("json", "csv", "draw"):
        path = getattr(arguments, name)
        if path and path != STDOUT:
            print(f"{name:4}  {path}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Gives a stream to a file that appears whole at the end, or the standard output."""
    from evonorm_jax.run_files import replacing

    if path == STDOUT:
        yield sys.stdout
        return
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        yield stream


class JsonOutput(contextlib.AbstractContextManager["JsonOutput"]):
    """A list of objects, one for each line."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._separator = "[\n"

    def add(self, prediction: Any) -> None:
        """Writes the records of one image."""
        for record in prediction.records():
            self._stream.write(self._separator + json.dumps(record))
            self._separator = ",\n"

    def __exit__(self, *exception: object) -> None:
        self._stream.write("[]\n" if self._separator == "[\n" else "\n]\n")


class CsvOutput(contextlib.AbstractContextManager["CsvOutput"]):
    """A heading and a line for each row."""

    def __init__(self, stream: TextIO):
        self._writer = csv.writer(stream, lineterminator="\n")
        self._columns: list[str] = []

    def add(self, prediction: Any) -> None:
        """Writes the rows of one image."""
        for row in prediction.rows:
            if not self._columns:
                self._columns = list(row)
                self._writer.writerow(self._columns)
            self._writer.writerow(row.values())

    def __exit__(self, *exception: object) -> None:
        """Leaves the stream to whoever opened it."""


class DrawnOutput(contextlib.AbstractContextManager["DrawnOutput"]):
    """A PNG file for each image, under its name; a number follows where the name is taken."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._taken: set[str] = set()

    def add(self, prediction: Any) -> None:
        """Draws one image."""
        from evonorm_jax.run_files import replacing

        stem = Path(prediction.path).stem
        numbered = (f"{stem}_{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([stem], numbered) if name not in self._taken)
        self._taken.add(name)
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._folder / f"{name}.png") as temporary:
            prediction.picture().save(temporary, format="PNG")

    def __exit__(self, *exception: object) -> None:
        """Has nothing to finish."""


class TableOutput(contextlib.AbstractContextManager["TableOutput"]):
    """A table that is shown at the end; wide where nobody looks at a terminal."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._rows: list[dict[str, str]] = []

    def add(self, prediction: Any) -> None:
        """Keeps the rows of one image; its name stands in the first one alone."""
        name = prediction.path
        for row in prediction.rows or [{"file": name, "class": "nothing was found"}]:
            texts = {column: _as_text(column, value) for column, value in row.items()}
            self._rows.append(texts | {"file": name})
            name = ""

    def __exit__(self, *exception: object) -> None:
        from rich.console import Console
        from rich.table import Table

        columns = list(dict.fromkeys(column for row in self._rows for column in row))
        table = Table(box=None)
        for column in columns:
            numeric = column not in ("file", "class")
            table.add_column(column, justify="right" if numeric else "left")
        for row in self._rows:
            table.add_row(*(row.get(column, "") for column in columns))
        width = None if self._stream.isatty() else 10_000
        if self._rows:
            Console(file=self._stream, width=width, markup=False, highlight=False).print(table)


def _as_text(column: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{100 * value:.1f} %" if column in _SHARES else f"{value:.1f}"
    return str(value)


if __name__ == "__main__":
    run_main(main)
