"""EvoNorm in JAX and Flax: the layers and, through `create_model`, the networks that hold them.

The layers here are Linen modules; `evonorm_jax.nnx` has them as NNX modules. `load_run` loads what
was trained, ready to use. Importing this package imports jax and flax alone; networks, runs and
`nnx` come with their first use.
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
    from evonorm_jax.training import load_run

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
    "load_run",
    "nnx",
    "norm_act",
    "norm_act_names",
]


def __getattr__(name: str) -> Any:
    if name == "create_model":
        return importlib.import_module("evonorm_jax.models").create_model
    if name == "load_run":
        return importlib.import_module("evonorm_jax.training").load_run
    if name == "nnx":
        return importlib.import_module("evonorm_jax.nnx")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
