"""Runs a notebook from top to bottom and saves the figure of it that docs/figures shows.

    python notebooks/render.py 01_layers [--output docs/figures]

Needs the `train` packages alone, 07_instance_segmentation those of `detection`, too: the cells are
plain Python, executed as one script.
"""

import argparse
import io
import os
import runpy
from pathlib import Path

import matplotlib
from PIL import Image

NOTEBOOKS = Path(__file__).resolve().parent

# The global of each notebook that holds its figure, and its resolution (dots per inch): 60 kB is
# enough for a picture that every clone carries.
FIGURES = {
    "01_layers": ("activations", 80),
    "02_batch_size": ("live_accuracy", 90),
    "03_train_your_own": ("predictions", 70),
    "04_read_results": ("layer_times", 80),
    "05_layer_search": ("live", 80),
    "06_image_synthesis": ("curves", 80),
    "07_instance_segmentation": ("nuclei", 76),
}
COLOURS = 128  # of a picture; all of them would take 130 kB where it shows photographs


def render(path: Path, folder: Path) -> Path:
    """Executes the notebook `path`, a .py file, and writes `<folder>/<its name>.png`."""
    matplotlib.use("agg")
    path, folder = path.resolve(), folder.resolve()
    os.chdir(NOTEBOOKS)  # where Jupyter starts a notebook
    variables = runpy.run_path(str(path), run_name="__main__")
    figure, dpi = FIGURES[path.stem]
    drawn = io.BytesIO()
    variables[figure].savefig(drawn, dpi=dpi)
    folder.mkdir(parents=True, exist_ok=True)
    picture_path = folder / f"{path.stem}.png"
    with Image.open(drawn) as picture:
        few_colours = picture.convert("RGB").quantize(COLOURS, kmeans=1, dither=Image.Dither.NONE)
    few_colours.save(picture_path, optimize=True)
    return picture_path


def main() -> None:
    """Draws the figure of a notebook."""
    parser = argparse.ArgumentParser(
        prog="python notebooks/render.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=FIGURES)
    parser.add_argument("--output", type=Path, default=NOTEBOOKS.parent / "docs" / "figures")
    arguments = parser.parse_args()
    print(render(NOTEBOOKS / f"{arguments.name}.py", arguments.output))


if __name__ == "__main__":
    main()
