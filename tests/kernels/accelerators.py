"""Lowering for accelerators that are not there, and the float64 oracle for the GPU kernels."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.mesh import AbstractDevice  # no public home yet
from jax.sharding import AbstractMesh, AxisType

from evonorm_jax.kernels import mosaic_gpu, reference

PLATFORMS = {
    "cuda": AbstractDevice(device_kind="NVIDIA H200", num_cores=None, platform="gpu"),
    "tpu": AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu"),
}

RESULTS = ("y", "mean", "rstd", "dx", "a", "b", "d")
#: Those again when the kernel adds a tensor to dx: it may change nothing else.
WITH_ADDEND = ("dx + addend", "a again", "b again", "d again")


def on_device(platform: str) -> Any:
    """A context in which programs are lowered as if `platform` were the default device."""
    mesh = AbstractMesh(
        (1,), ("device",), axis_types=(AxisType.Auto,), abstract_device=PLATFORMS[platform]
    )
    return jax.sharding.use_abstract_mesh(mesh)


def lower(function: Callable[..., Any], platform: str, *operands: Any) -> str:
    """The program's text; raises what the kernel compilers find illegal."""
    with on_device(platform):
        return jax.jit(function).trace(*operands).lower(lowering_platforms=(platform,)).as_text()


def abstract_operands(
    shape: tuple[int, ...], dtype: Any
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Operands of `forward` and of `backward` without values."""
    x = jax.ShapeDtypeStruct(shape, dtype)
    channels = jax.ShapeDtypeStruct(shape[-1:], jnp.float32)
    statistics = jax.ShapeDtypeStruct((2, shape[0], shape[-1]), jnp.float32)
    return (x, channels, channels, channels), (x, x, channels, channels, statistics)


def operands(
    shape: tuple[int, ...], dtype: Any, mean: float = 0.3
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """x of standard deviation 1, a cotangent, v, scale and bias."""
    rng = np.random.default_rng(0)
    x, dy = (jnp.asarray(rng.normal(m, 1, shape), dtype) for m in (mean, 0))
    v, scale, bias = (jnp.asarray(rng.uniform(0.5, 1.5, shape[-1]), jnp.float32) for _ in range(3))
    return x, dy, v, scale, bias


def check_kernels(shape: tuple[int, ...], dtype: Any, num_groups: int, parts: int | None) -> None:
    """Interprets the GPU kernels and compares every result with float64 NumPy."""
    x, dy, v, scale, bias = operands(shape, dtype)

    @jax.jit
    def run(x: jax.Array, dy: jax.Array, v: jax.Array, scale: jax.Array, bias: jax.Array) -> Any:
        params, statics = (v, scale, bias), {"interpret": True, "parts": parts}
        y, statistics = mosaic_gpu.forward(x, *params, num_groups, 1e-5, **statics)
        dx, sums = mosaic_gpu.backward(x, dy, v, scale, statistics, num_groups, **statics)
        values = (y, *statistics, dx, *sums)
        backward = functools.partial(mosaic_gpu.backward, addend=x + dy)
        dx, sums = backward(x, dy, v, scale, statistics, num_groups, **statics)
        return dict(zip((*RESULTS, *WITH_ADDEND), (*values, dx, *sums), strict=True))

    actual = run(x, dy, v, scale, bias)
    # To the last bit: two roundings, as if XLA had added them.
    np.testing.assert_array_equal(actual.pop("dx + addend"), actual["dx"] + (x + dy))
    for name in ("a", "b", "d"):
        np.testing.assert_array_equal(actual.pop(f"{name} again"), actual[name])
    expected = _oracle(x, dy, v, scale, bias, num_groups)
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        tensor = name in ("y", "dx")
        assert value.dtype == (dtype if tensor else jnp.float32), name
        # bfloat16: the rounding of the result alone, half of 2^-8.
        tolerance = 2**-8 if tensor and dtype == "bfloat16" else 3e-6
        error = np.abs(np.asarray(value, np.float64) - expected[name]).max()
        assert error <= tolerance * np.abs(expected[name]).max(), (name, error)


def _oracle(
    x: jax.Array,
    dy: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    num_groups: int,
) -> dict[str, np.ndarray]:
    x, dy, v, scale, bias = (np.asarray(array, np.float64) for array in (x, dy, v, scale, bias))
    grouped = x.reshape(x.shape[0], -1, num_groups, x.shape[-1] // num_groups)
    gated = x / (1 + np.exp(-v * x))
    with jax.enable_x64(True):
        y, pull = jax.vjp(
            lambda x: reference.evonorm_s0(
                x, *map(jnp.asarray, (v, scale, bias)), num_groups=num_groups, epsilon=1e-5
            ),
            jnp.asarray(x),
        )
        (dx,) = pull(jnp.asarray(dy))
    return {
        "y": np.asarray(y),
        "mean": np.repeat(grouped.mean((1, 3)), grouped.shape[-1], axis=1),
        "rstd": np.repeat(1 / np.sqrt(grouped.var((1, 3)) + 1e-5), grouped.shape[-1], axis=1),
        "dx": np.asarray(dx),
        "a": (dy * gated).sum((1, 2)),
        "b": dy.sum((1, 2)),
        "d": (dy * gated * (x - gated)).sum((1, 2)),
    }
