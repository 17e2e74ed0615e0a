"""Reads what runs have written: run directories in, curves, tables and figures out.

It computes without JAX and TensorFlow.
"""

from evonorm_jax.analysis.confusion import draw_confusion, plot_confusion
from evonorm_jax.analysis.curves import draw_runs, plot_run, plot_runs
from evonorm_jax.analysis.precision_recall import (
    compare_precision_recall,
    draw_precision_recall,
    plot_precision_recall,
    read_precision_recall,
)
from evonorm_jax.analysis.runs import Run, load_run, load_runs, run_labels
from evonorm_jax.analysis.sweep_figures import draw_accuracy, plot_accuracy, plot_learning_curves
from evonorm_jax.analysis.sweep_files import load_sweep
from evonorm_jax.analysis.sweep_report import write_sweep_report
from evonorm_jax.analysis.sweep_results import read_results
from evonorm_jax.analysis.sweep_tables import accuracy_table
from evonorm_jax.analysis.sweeps import Sweep

__all__ = [
    "Run",
    "Sweep",
    "accuracy_table",
    "compare_precision_recall",
    "draw_accuracy",
    "draw_confusion",
    "draw_precision_recall",
    "draw_runs",
    "load_run",
    "load_runs",
    "load_sweep",
    "plot_accuracy",
    "plot_confusion",
    "plot_learning_curves",
    "plot_precision_recall",
    "plot_run",
    "plot_runs",
    "read_precision_recall",
    "read_results",
    "run_labels",
    "write_sweep_report",
]
