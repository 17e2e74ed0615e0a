"""Every function of `evonorm_jax.kernels` as `case.call(implementation)(x, *params)`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from evonorm_jax import kernels

# Means of the random parameters; v of the Swish and of S0 is a steepness, so near one.
MEANS = {"v": 1.0, "scale": 1.0, "bias": 0.0, "running_mean": 0.2, "running_var": 1.5}


@dataclasses.dataclass(frozen=True)
class Case:
    """A function with its static arguments, and the names of its parameters in order."""

    name: str
    function: Callable[..., Any]
    params: tuple[str, ...]
    static: tuple[tuple[str, Any], ...] = ()

    def call(self, implementation: str | None = None, **static: Any) -> Callable[..., jax.Array]:
        """`f(x, *params) -> y`; `static` overrides."""
        keywords = {**dict(self.static), **static}

        def apply(x: jax.Array, *params: jax.Array) -> jax.Array:
            named = dict(zip(self.params, params, strict=True))
            out = self.function(x, **named, **keywords, implementation=implementation)
            return out[0] if isinstance(out, tuple) else out

        return apply

    def operands(
        self, shape: tuple[int, ...], dtype: Any = "float32", mean: float = 0.3, seed: int = 0
    ) -> tuple[jax.Array, ...]:
        """x of standard deviation 1, then the parameters (float32, or float64 with float64)."""
        rng = np.random.default_rng(seed)
        param_dtype = "float64" if dtype == "float64" else "float32"
        params = (
            jnp.asarray(
                rng.uniform(0.5, 1.5, shape[-1]) + MEANS[name] - 1,
                param_dtype,
            )
            for name in self.params
        )
        return jnp.asarray(rng.normal(mean, 1, shape), dtype), *params


GROUPS = (("num_groups", 4),)
AFFINE = ("scale", "bias")


def _norm(name: str, function: Callable[..., Any], activation: str, *static: Any) -> Case:
    params = (*AFFINE, "v") if activation == "swish" else AFFINE
    return Case(f"{name}_{activation}", function, params, (("activation", activation), *static))


CASES = (
    Case("s0", kernels.evonorm_s0, ("v", *AFFINE), GROUPS),
    Case("s1", kernels.evonorm_s1, AFFINE, GROUPS),
    Case("s2", kernels.evonorm_s2, AFFINE, GROUPS),
    Case("b0", kernels.evonorm_b0, ("v", *AFFINE)),
    Case("b1", kernels.evonorm_b1, AFFINE),
    Case("b2", kernels.evonorm_b2, AFFINE),
    Case("b0_inference", kernels.evonorm_b0_inference, ("v", *AFFINE, "running_var")),
    Case("b1_inference", kernels.evonorm_b1_inference, (*AFFINE, "running_var")),
    Case("b2_inference", kernels.evonorm_b2_inference, (*AFFINE, "running_var")),
    _norm("gn", kernels.group_norm, "identity", *GROUPS),
    _norm("gn", kernels.group_norm, "relu", *GROUPS),
    _norm("gn", kernels.group_norm, "silu", *GROUPS),
    _norm("gn", kernels.group_norm, "swish", *GROUPS),
    _norm("bn", kernels.batch_norm, "relu"),
    _norm("bn", kernels.batch_norm, "swish"),
    Case("frn", kernels.filter_response_norm, (*AFFINE, "threshold")),
)
MEANS["threshold"] = 0.0

by_name = {case.name: case for case in CASES}


@functools.cache
def _step(case: Case, implementation: str | None, static: tuple[tuple[str, Any], ...]) -> Any:
    def step(operands: tuple[jax.Array, ...], dy: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(case.call(implementation, **dict(static)), *operands)
        return y, *pull(dy)

    return jax.jit(step)


def output_and_gradients(
    case: Case, implementation: str | None, operands: tuple[jax.Array, ...], **static: Any
) -> list[np.ndarray]:
    """y and the gradients of every operand under one fixed cotangent; compiled once per shape."""
    x = operands[0]
    cotangent = np.random.default_rng(1).normal(size=x.shape)
    # bfloat16 in every precision, so that float64 sees the same numbers.
    dy = jnp.asarray(cotangent, jnp.bfloat16).astype(x.dtype)
    results = _step(case, implementation, tuple(static.items()))(operands, dy)
    return [np.asarray(result) for result in results]


def relative_errors(actual: Any, expected: Any) -> list[float]:
    """max |error| / max |expected| of each array."""

    def error(a: jax.Array, b: jax.Array) -> float:
        a, b = (np.asarray(t, np.float64) for t in (a, b))
        assert a.shape == b.shape
        return float(np.abs(a - b).max() / np.abs(b).max())

    return [error(a, b) for a, b in zip(actual, expected, strict=True)]


float64 = functools.partial(jax.enable_x64, True)
