"""Training: from a config to a run directory, and from there to a network in use."""

from evonorm_jax.training.guard import TrainingDiverged
from evonorm_jax.training.loop import train_and_evaluate
from evonorm_jax.training.trained_run import TrainedRun, load_run

__all__ = ["TrainedRun", "TrainingDiverged", "load_run", "train_and_evaluate"]
