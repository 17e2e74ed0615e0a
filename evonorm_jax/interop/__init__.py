"""Weights from and to timm and PyTorch in safetensors files, and the twins of timm's networks."""

from evonorm_jax.interop.biggan import load_biggan_weights
from evonorm_jax.interop.inception import load_inception_weights
from evonorm_jax.interop.pretrained import PRETRAINED, PretrainedWeights, find_weights
from evonorm_jax.interop.safetensors_file import load_timm_weights, save_timm_weights
from evonorm_jax.interop.state_dict import from_timm_state_dict, timm_tensors, to_timm_state_dict
from evonorm_jax.interop.timm_models import (
    TIMM_MODELS,
    TimmModel,
    check_twin,
    create_timm_model,
    timm_model_names,
)

__all__ = [
    "PRETRAINED",
    "TIMM_MODELS",
    "PretrainedWeights",
    "TimmModel",
    "check_twin",
    "create_timm_model",
    "find_weights",
    "from_timm_state_dict",
    "load_biggan_weights",
    "load_inception_weights",
    "load_timm_weights",
    "save_timm_weights",
    "timm_model_names",
    "timm_tensors",
    "to_timm_state_dict",
]
