"""Statistics across devices: values and gradients equal those of the joined batch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from tests.kernels.cases import Case, by_name, float64

SYNCHRONISED = ["b0", "b1", "b2", "bn_relu"]


def per_device(x: jax.Array, num_devices: int) -> jax.Array:
    return x.reshape(num_devices, -1, *x.shape[1:])


def step(
    case: Case, implementation: str, dy: jax.Array, *operands: jax.Array, **static: Any
) -> Any:
    """y, dx and the parameters' gradients of sum(y dy)."""
    y, pull = jax.vjp(case.call(implementation, **static), *operands)
    return y, *pull(dy)


def on_devices(
    case: Case,
    implementation: str,
    num_devices: int,
    operands: tuple[jax.Array, ...],
    **static: Any,
) -> Any:
    x, *params = operands
    dy = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    mapped = jax.pmap(
        functools.partial(step, case, implementation, axis_name="devices", **static),
        axis_name="devices",
        in_axes=(0, 0, *(None for _ in params)),
        devices=jax.devices()[:num_devices],
    )
    y, dx, *gradients = mapped(per_device(dy, num_devices), per_device(x, num_devices), *params)
    return y.reshape(x.shape), dx.reshape(x.shape), *(g.sum(0) for g in gradients)


@pytest.mark.parametrize("name", SYNCHRONISED)
def test_synchronised_statistics_are_those_of_the_joined_batch(name: str) -> None:
    case = by_name[name]
    with float64():
        operands = case.operands((8, 3, 3, 4), "float64")
        actual = on_devices(case, "xla", 4, operands)
        dy = jnp.cos(jnp.arange(operands[0].size, dtype="float64")).reshape(operands[0].shape)
        expected = jax.jit(functools.partial(step, case, "reference"))(dy, *operands)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


def test_gradients_through_the_collectives_are_those_of_plain_jax() -> None:
    case = by_name["b0"]
    with float64():
        operands = case.operands((8, 3, 3, 4), "float64")
        actual, expected = (
            on_devices(case, implementation, 8, operands) for implementation in ("xla", "reference")
        )
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


def test_groups_of_devices_are_separate_batches() -> None:
    case = by_name["b0"]
    operands = case.operands((8, 3, 3, 4))
    groups = [[0, 1], [2, 3]]
    actual = on_devices(case, "xla", 4, operands, axis_index_groups=groups)
    expected = on_devices(case, "reference", 4, operands, axis_index_groups=groups)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    x, *params = operands
    function = jax.jit(case.call())
    halves = [function(half, *params) for half in (x[:4], x[4:])]
    np.testing.assert_allclose(actual[0], jnp.concatenate(halves), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["s0", "b0"])
def test_sharded_jit_is_one_device(name: str) -> None:
    case = by_name[name]
    x, *params = case.operands((8, 4, 4, 4))
    mesh = Mesh(np.array(jax.devices()[:4]), ("batch",))
    sharded = jax.device_put(x, jax.NamedSharding(mesh, PartitionSpec("batch")))
    gradient = jax.jit(
        jax.grad(lambda x, *params: jnp.sum(jnp.sin(case.call()(x, *params))), argnums=(0, 1))
    )
    for a, b in zip(gradient(sharded, *params), gradient(x, *params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["s0", "b0"])
def test_shard_map(name: str) -> None:
    case = by_name[name]
    static = {"axis_name": "batch"} if name == "b0" else {}
    x, *params = case.operands((8, 4, 4, 4))
    mesh = Mesh(np.array(jax.devices()[:4]), ("batch",))
    batch, everywhere = PartitionSpec("batch"), PartitionSpec()

    def sharded(x: jax.Array, *params: jax.Array) -> jax.Array:
        return jax.shard_map(
            case.call(**static),
            mesh=mesh,
            in_specs=(batch, *(everywhere for _ in params)),
            out_specs=batch,
        )(x, *params)

    def gradients(function: Any) -> Any:
        loss = lambda *operands: jnp.sum(jnp.sin(function(*operands)))  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=tuple(range(len(params) + 1))))(x, *params)

    for a, b in zip(gradients(sharded), gradients(case.call()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
