"""Sweeps: many training runs from one config, each in a process and a run directory of its own."""

from evonorm_jax.sweeps.cells import Cell, create_cells, select_cells, train_arguments
from evonorm_jax.sweeps.runner import State, SweepRunner
from evonorm_jax.sweeps.slots import Slot, find_slots

__all__ = [
    "Cell",
    "Slot",
    "State",
    "SweepRunner",
    "create_cells",
    "find_slots",
    "select_cells",
    "train_arguments",
]
