"""Sweeps: many training runs from one config, each in a process and a run directory of its own."""

from evonorm_jax.sweeps.cells import Cell, create_cells, select_cells, train_arguments
from evonorm_jax.sweeps.process import LocalRuns
from evonorm_jax.sweeps.runner import CellState, SweepRunner

__all__ = [
    "Cell",
    "CellState",
    "LocalRuns",
    "SweepRunner",
    "create_cells",
    "select_cells",
    "train_arguments",
]
