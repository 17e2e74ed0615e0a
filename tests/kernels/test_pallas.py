"""The differentiable function over the kernels: gradients, dispatch, export, refusals."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from evonorm_jax.errors import UserError
from evonorm_jax.kernels import pallas, reference
from tests.kernels.accelerators import abstract_operands, lower, on_device, operands
from tests.kernels.test_mosaic_gpu import HAS_INTERPRETER

CUSTOM_CALLS = {"cuda": "@mosaic_gpu_v2", "tpu": "@tpu_custom_call"}


def plain(*operands: jax.Array, num_groups: int = 4) -> jax.Array:
    return reference.evonorm_s0(*operands, num_groups=num_groups, epsilon=1e-5)


def loss(*operands: jax.Array, num_groups: int = 32) -> jax.Array:
    y = pallas.evonorm_s0_pallas(*operands, num_groups=num_groups)
    return jnp.sum(jnp.sin(y.astype(jnp.float32)))


gradients = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))


@pytest.mark.parametrize("hardware", ["tpu", *(["gpu"] if HAS_INTERPRETER else [])])
def test_gradients(hardware: pallas.Hardware) -> None:
    x, dy, *params = operands((3, 3, 5, 8), "float32")
    fused = functools.partial(
        pallas.evonorm_s0_pallas, num_groups=4, interpret=True, interpret_as=hardware
    )

    def run(function: Callable[..., jax.Array]) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(function, x, *params)
        return y, *pull(dy)

    for actual, expected in zip(run(fused), run(plain), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6 * jnp.abs(expected).max())


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 2, 1, 8)])
def test_any_number_of_spatial_axes(shape: tuple[int, ...]) -> None:
    x, _, *params = operands(shape, "float32")
    y = pallas.evonorm_s0_pallas(x, *params, num_groups=4, interpret=True)
    np.testing.assert_allclose(y, plain(x, *params), rtol=1e-6, atol=1e-6)


def test_dtypes_and_residuals() -> None:
    x, _, *params = operands((2, 16, 16, 8), "bfloat16")
    params = [param.astype(jnp.bfloat16) for param in params]
    fused = functools.partial(pallas.evonorm_s0_pallas, num_groups=4, interpret=True)
    y, pull = jax.vjp(fused, x, *params)
    assert all(value.dtype == jnp.bfloat16 for value in (y, *pull(y)))
    kept = sum(value.nbytes for value in jax.tree.leaves(pull) if hasattr(value, "nbytes"))
    assert kept <= 1.1 * x.nbytes


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_and_exports(platform: str) -> None:
    abstract, _ = abstract_operands((2, 9, 7, 64), "bfloat16", 32)
    assert lower(gradients, platform, *abstract).count(CUSTOM_CALLS[platform]) == 2
    with on_device(platform):
        exported = export.export(jax.jit(gradients), platforms=[platform])(*abstract)
    assert exported.platforms == (platform,)
    assert exported.mlir_module().count(CUSTOM_CALLS[platform]) == 2
    assert [aval.shape for aval in exported.out_avals[1:]] == [o.shape for o in abstract]


@pytest.mark.parametrize("platform", ["cpu", "rocm"])
def test_refuses_other_platforms(platform: str) -> None:
    abstract, _ = abstract_operands((2, 9, 7, 64), "bfloat16", 32)
    with pytest.raises(UserError, match="Hopper GPUs and for TPUs alone: use None"):
        jax.jit(gradients).trace(*abstract).lower(lowering_platforms=(platform,))


def test_refuses_on_the_spot() -> None:
    x, _, *params = operands((2, 3, 3, 8), "float32")
    with pytest.raises(UserError, match="Hopper GPUs and for TPUs alone: use None"):
        pallas.evonorm_s0_pallas(x, *params, num_groups=4)


def test_refuses_shapes_on_the_platform_that_cannot_take_them() -> None:
    shape = (2, 112, 112, 64)
    abstract, _ = abstract_operands(shape, "bfloat16", 32)
    assert lower(gradients, "tpu", *abstract).count(CUSTOM_CALLS["tpu"]) == 2
    with pytest.raises(UserError, match=r"bytes of shared memory.*: use None"):
        lower(gradients, "cuda", *abstract)
    assert pallas.supports(shape, "bfloat16", 32, "tpu") is None
    reason = pallas.supports(shape, "bfloat16", 32, "gpu")
    assert reason is not None
    assert "shared memory" in reason


def test_refuses_what_no_kernel_can_take() -> None:
    x, _, *params = operands((2, 3, 3, 8), "float16")
    with pytest.raises(UserError, match="x is float16"):
        pallas.evonorm_s0_pallas(x, *params, num_groups=4)
    with pytest.raises(UserError, match="x is float16"):
        pallas.evonorm_s0_pallas(x, *params, num_groups=4, interpret=True)


def test_supports_any_rank() -> None:
    def reasons(shape: tuple[int, ...]) -> list[Any]:
        return [pallas.supports(shape, "bfloat16", 4, hardware) for hardware in ("gpu", "tpu")]

    assert reasons((2, 8)) == reasons((2, 5, 8)) == reasons((2, 3, 2, 1, 8)) == [None, None]
