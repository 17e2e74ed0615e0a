"""Networks whose every normalisation and activation is one argument, `norm_act`."""

from evonorm_jax.models.cifar_resnet import CifarResNet
from evonorm_jax.models.complexity import count_multiply_adds, count_parameters
from evonorm_jax.models.registry import create_model, model_names
from evonorm_jax.models.resnet import ResNet
from evonorm_jax.models.resnet_v1 import ResNetV1

__all__ = [
    "CifarResNet",
    "ResNet",
    "ResNetV1",
    "count_multiply_adds",
    "count_parameters",
    "create_model",
    "model_names",
]
