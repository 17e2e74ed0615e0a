"""Reading what runs have written: run directories in, curves out. No JAX, no TensorFlow."""

from evonorm_jax.analysis.curves import plot_runs
from evonorm_jax.analysis.runs import Run, load_run, load_runs, run_labels

__all__ = ["Run", "load_run", "load_runs", "plot_runs", "run_labels"]
