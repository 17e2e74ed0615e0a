"""EvoNorm in JAX and Flax: the layers and, through `create_model`, the networks that hold them.

`load_run` loads what was trained, ready to use. Importing this package imports jax and flax alone;
networks and runs come with their first use.
"""

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
    "norm_act",
    "norm_act_names",
]


def __getattr__(name: str) -> Any:
    if name == "create_model":
        from evonorm_jax.models import create_model

        return create_model
    if name == "load_run":
        from evonorm_jax.training import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
