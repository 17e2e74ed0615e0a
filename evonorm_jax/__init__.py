"""EvoNorm in JAX and Flax: the layers and, through `create_model`, the networks that hold them.

The layers here are Linen modules; `evonorm_jax.nnx` has them as NNX modules. Importing this package
imports jax and flax alone; the networks and `nnx` come with their first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from evonorm_jax.layers import (
    EvoNormB0,
    EvoNormB1,
    EvoNormB2,
    EvoNormS0,
    EvoNormS1,
    EvoNormS2,
)
from evonorm_jax.norm_act import norm_act, norm_act_names

if TYPE_CHECKING:
    from evonorm_jax import nnx
    from evonorm_jax.models import create_model

__version__ = "0.1.0"

__all__ = [
    "EvoNormB0",
    "EvoNormB1",
    "EvoNormB2",
    "EvoNormS0",
    "EvoNormS1",
    "EvoNormS2",
    "__version__",
    "create_model",
    "nnx",
    "norm_act",
    "norm_act_names",
]


def __getattr__(name: str) -> Any:
    if name == "create_model":
        from evonorm_jax.models import create_model

        return create_model
    if name == "nnx":
        return importlib.import_module("evonorm_jax.nnx")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
