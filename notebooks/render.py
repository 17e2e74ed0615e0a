"""Runs a notebook from top to bottom and saves the figure of it that docs/figures shows.

    python notebooks/render.py 01_layers [--output docs/figures]

Needs the `train` packages only: the cells are plain Python, executed as one script.
"""

import argparse
import os
import runpy
from pathlib import Path

import matplotlib

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
}


def render(name: str, folder: Path) -> Path:
    """Executes `<name>.py` and writes `<folder>/<name>.png`."""
    matplotlib.use("agg")
    folder = folder.resolve()
    os.chdir(NOTEBOOKS)  # where Jupyter starts a notebook
    variables = runpy.run_path(str(NOTEBOOKS / f"{name}.py"), run_name="__main__")
    figure, dpi = FIGURES[name]
    folder.mkdir(parents=True, exist_ok=True)
    variables[figure].savefig(folder / f"{name}.png", dpi=dpi)
    return folder / f"{name}.png"


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
    print(render(arguments.name, arguments.output))


if __name__ == "__main__":
    main()
