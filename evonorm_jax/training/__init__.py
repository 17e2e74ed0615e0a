"""Training: from a config to a run directory."""

from evonorm_jax.training.guard import TrainingDiverged
from evonorm_jax.training.loop import train_and_evaluate

__all__ = ["TrainingDiverged", "train_and_evaluate"]
