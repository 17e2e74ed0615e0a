"""What is recorded below `results/`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from evonorm_jax.analysis.sweep_results import RESULTS_FILE, read_results
from evonorm_jax.analysis.sweeps import Sweep
from evonorm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A sweep or a run in `results/`.

    Attributes:
      folder: Name of its folder in `results/`.
      title: First line of its README.
      sweep: Its table; None for a record of another form.
    """

    folder: str
    title: str
    sweep: Sweep | None


def read_recorded(results: Path) -> list[Recorded]:
    """Reads everything below `results/` that has a README."""
    recorded = []
    for readme in sorted(results.glob("*/README.md")):
        try:
            sweep = read_results(readme.parent / RESULTS_FILE)
        except UserError:  # a record of its own form
            sweep = None
        title = readme.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        recorded.append(Recorded(readme.parent.name, title, sweep))
    return recorded
