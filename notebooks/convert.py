"""Writes the .ipynb of each notebook, which Colab and GitHub want, from its .py.

    python notebooks/convert.py

The .py files (Jupytext's percent format) are the source; the .ipynb files hold the same cells and
no outputs, and are never edited. Needs the `notebooks` extra.
"""

from pathlib import Path

import jupytext

NOTEBOOKS = Path(__file__).resolve().parent

_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def convert(source: Path) -> Path:
    """Writes `<name>.ipynb` beside `<name>.py`; the same bytes every time."""
    notebook = jupytext.read(source)
    notebook.metadata = type(notebook.metadata)(_METADATA)
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"  # Jupytext draws them at random: every conversion would differ
    target = source.with_suffix(".ipynb")
    jupytext.write(notebook, target)
    return target


if __name__ == "__main__":
    for path in sorted(NOTEBOOKS.glob("[0-9]*.py")):
        print(convert(path))
