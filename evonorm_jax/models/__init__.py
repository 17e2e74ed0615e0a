"""Networks that take all their normalisations and activations as one argument, `norm_act`."""

from evonorm_jax.models.cifar_resnet import CifarResNet
from evonorm_jax.models.complexity import count_multiply_adds, count_parameters
from evonorm_jax.models.depthwise import DepthwiseConv
from evonorm_jax.models.efficientnet import EfficientNet
from evonorm_jax.models.mnasnet import MnasNetB1
from evonorm_jax.models.mobilenet_v2 import MobileNetV2
from evonorm_jax.models.registry import create_model, model_names, native_image_size
from evonorm_jax.models.resnet import ResNet
from evonorm_jax.models.resnet_v1 import ResNetV1
from evonorm_jax.models.spinenet import SpineNet

__all__ = [
    "CifarResNet",
    "DepthwiseConv",
    "EfficientNet",
    "MnasNetB1",
    "MobileNetV2",
    "ResNet",
    "ResNetV1",
    "SpineNet",
    "count_multiply_adds",
    "count_parameters",
    "create_model",
    "model_names",
    "native_image_size",
]
