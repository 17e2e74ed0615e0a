"""Dropout whose random numbers belong to the example, not to its device.

`flax.linen.Dropout` draws one array for all examples that it sees, so another split of the global
batch over devices or micro-batches would drop other values. Here each example draws with a key of
its own place in the global batch, and a run is the same on any number of devices. Networks hold
plain `nn.Dropout` and know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

import jax
from flax import linen as nn

from evonorm_jax.errors import UserError
from evonorm_jax.training.parallel import keys_at


def dropout_by_position(positions: jax.Array) -> AbstractContextManager[None]:
    """Makes every `nn.Dropout` that is applied inside the context draw for each example by itself.

    Whole branches are dropped so as well (`evonorm_jax.models.stochastic_depth`). The rng of the
    network, `rngs={"dropout": key}`, must then be the same key on every device.

    Args:
      positions: `[N]` integers, the places of the examples in the global batch. The first axis of
        what is dropped from has one row for each example, or equally many neighbouring rows for
        each, such as regions.

    Raises:
      UserError: In the call of a dropout whose number of rows is no multiple of N.
    """

    def intercept(
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        if isinstance(context.module, nn.Dropout) and context.method_name == "__call__":
            return _drop(context.module, call, positions, *args, **kwargs)
        return call(*args, **kwargs)

    return cast(AbstractContextManager[None], nn.intercept_methods(intercept))


def _drop(
    dropout: nn.Dropout,
    call: Callable[..., jax.Array],
    positions: jax.Array,
    inputs: jax.Array,
    deterministic: bool | None = None,
    rng: jax.Array | None = None,
) -> jax.Array:
    """Calls a dropout for each example with a key of its own, where the examples are independent.

    The other cases are those without a random number, those whose caller has chosen the key, and a
    mask that all examples share.
    """
    is_off = nn.merge_param("deterministic", dropout.deterministic, deterministic)
    is_shared = 0 in (axis % inputs.ndim for axis in dropout.broadcast_dims)
    if is_off or dropout.rate == 0 or rng is not None or is_shared:
        return call(inputs, deterministic, rng)

    if inputs.shape[0] % len(positions):
        raise UserError(
            f"nn.Dropout is applied to an array of shape {inputs.shape} in a step of "
            f"{len(positions)} examples: the first axis must hold them, so that each draws its own "
            "random numbers; move it there, or share the mask with broadcast_dims=(0,)."
        )
    rows = inputs.reshape(len(positions), -1, *inputs.shape[1:])
    keys = keys_at(dropout.make_rng(dropout.rng_collection), positions)
    return jax.vmap(call, (0, None, 0))(rows, deterministic, keys).reshape(inputs.shape)
