"""The transcription against numbers worked by hand and against Flax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from evonorm_jax import kernels
from tests.kernels.cases import by_name

# Two samples of two pixels, one channel: instance means 0 and 2, variances 1 and 4,
# mean squares 1 and 8; batch mean 1, batch variance (1 + 4) / 2 + 1 = 3.5.
X = np.array([[-1.0, 1.0], [0.0, 4.0]]).reshape(2, 1, 2, 1)
ONE = jnp.ones(1)
ZERO = jnp.zeros(1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def column(*values: float) -> np.ndarray:
    return np.array(values).reshape(-1, 1, 1, 1)


EXPECTED = {
    "evonorm_s0": X * sigmoid(2 * X) / column(1, 2),
    "evonorm_s1": X * sigmoid(X) / column(1, 2),
    "evonorm_s2": X * sigmoid(X) / np.sqrt(column(1, 8)),
    "evonorm_b0": X / np.maximum(np.sqrt(3.5), 2 * X + column(1, 2)),
    "evonorm_b1": X / np.maximum(np.sqrt(3.5), (X + 1) * np.sqrt(column(1, 8))),
    "evonorm_b2": X / np.maximum(np.sqrt(3.5), np.sqrt(column(1, 8)) - X),
}


@pytest.mark.parametrize("implementation", ["xla", "reference"])
@pytest.mark.parametrize("name", EXPECTED)
def test_by_hand(name: str, implementation: str) -> None:
    function = getattr(kernels, name)
    v = {"v": 2 * ONE} if name.endswith("0") else {}
    groups = {"num_groups": 1} if "_s" in name else {}
    # scale 3 and bias -1 stand outside everything else.
    out = function(
        jnp.asarray(X, jnp.float32),
        scale=3 * ONE,
        bias=-ONE,
        epsilon=1e-12,
        implementation=implementation,
        **v,
        **groups,
    )
    y = out[0] if isinstance(out, tuple) else out
    np.testing.assert_allclose(y, 3 * EXPECTED[name] - 1, rtol=2e-6)
    if isinstance(out, tuple):
        np.testing.assert_allclose(out[1], [3.5], rtol=1e-6)


def test_epsilon_is_inside_the_root() -> None:
    x = jnp.asarray(X, jnp.float32)
    y = kernels.evonorm_s1(x, ONE, ZERO, num_groups=1, epsilon=3.0)
    np.testing.assert_allclose(y, X * sigmoid(X) / np.sqrt(column(4, 7)), rtol=2e-6)


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_group_norm_is_flax_group_norm(implementation: str) -> None:
    x, scale, bias = by_name["gn_silu"].operands((3, 4, 5, 12))
    flax = nn.GroupNorm(num_groups=4, epsilon=1e-5)
    expected = nn.silu(flax.apply({"params": {"scale": scale, "bias": bias}}, x))
    y = kernels.group_norm(
        x, scale, bias, num_groups=4, activation="silu", implementation=implementation
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_batch_norm_is_flax_batch_norm(implementation: str) -> None:
    x, scale, bias = by_name["bn_relu"].operands((3, 4, 5, 6))
    flax = nn.BatchNorm(use_running_average=False, epsilon=1e-5)
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": jnp.zeros(6), "var": jnp.ones(6)},
    }
    expected, _ = flax.apply(variables, x, mutable=["batch_stats"])
    y, _, _ = kernels.batch_norm(x, scale, bias, activation="relu", implementation=implementation)
    np.testing.assert_allclose(y, jax.nn.relu(expected), rtol=1e-5, atol=1e-6)


def test_s1_is_s0_with_v_one() -> None:
    x, scale, bias = by_name["s1"].operands((3, 4, 5, 12))
    s0 = kernels.evonorm_s0(x, jnp.ones(12), scale, bias, num_groups=4)
    s1 = kernels.evonorm_s1(x, scale, bias, num_groups=4)
    np.testing.assert_allclose(s1, s0, rtol=1e-6, atol=1e-6)


def test_b0_and_b2_are_scale_invariant() -> None:
    x, v, scale, bias = by_name["b0"].operands((3, 4, 5, 6))
    del v
    zero = jnp.zeros(6)  # v x is not invariant to a change of v's units, so v = 0
    b0 = kernels.evonorm_b0(x, zero, scale, bias)[0]
    np.testing.assert_allclose(kernels.evonorm_b0(100 * x, zero, scale, bias)[0], b0, atol=1e-4)
    b2 = kernels.evonorm_b2(x, scale, bias)[0]
    np.testing.assert_allclose(kernels.evonorm_b2(100 * x, scale, bias)[0], b2, atol=1e-4)
