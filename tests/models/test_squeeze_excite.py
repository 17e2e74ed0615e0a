"""Squeeze-excite by hand, and its activation for every layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.layers import EvoNormS0
from evonorm_jax.models.squeeze_excite import SqueezeExcite, gate_activation
from evonorm_jax.norm_act import norm_act, norm_act_names


def test_by_hand():
    # Two channels with means 2 and -1; reduce to 2 - (-1) - 0.5 = 2.5; gates of 2.5 and -5 + 1.
    x = jnp.array([[1.0, -4.0], [3.0, 2.0]]).reshape(1, 2, 1, 2)
    variables = {
        "params": {
            "reduce": {"kernel": jnp.array([[1.0], [-1.0]]), "bias": jnp.array([-0.5])},
            "expand": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.0, 1.0])},
        }
    }
    y = SqueezeExcite(1, activation=nn.relu).apply(variables, x)
    gates = 1 / (1 + np.exp([-2.5, 4.0]))
    np.testing.assert_allclose(y[0, :, 0], x[0, :, 0] * gates, rtol=1e-6)

    silu = 2.5 / (1 + np.exp(-2.5))
    y = SqueezeExcite(1).apply(variables, x)
    gates = 1 / (1 + np.exp([-silu, 2 * silu - 1]))
    np.testing.assert_allclose(y[0, :, 0], x[0, :, 0] * gates, rtol=1e-6)


def test_bfloat16_takes_the_mean_in_float32():
    # bfloat16 cannot count beyond 256: summed in it, 1024 ones would have a mean of 1/4.
    x = jnp.ones((1, 32, 32, 2), jnp.bfloat16)
    module = SqueezeExcite(2, activation=lambda z: z, dtype=jnp.bfloat16)
    identity = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    y = module.apply({"params": {"reduce": identity, "expand": identity}}, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype("float32"), 1 / (1 + np.exp(-1.0)), rtol=2**-8)


@pytest.mark.parametrize("name", norm_act_names())
def test_activation_of_every_layer(name):
    """ReLU where the layer ends in it, SiLU where it does and where it has none of its own."""
    z = jnp.array([-1.5, 0.5])
    expected = nn.relu(z) if name.endswith(("_relu", "_relu6")) else nn.silu(z)
    np.testing.assert_array_equal(gate_activation(name)(z), expected)


class OwnLayer(nn.Module):
    """A layer of the user's, which says nothing about its activation."""


@pytest.mark.parametrize("layer", [EvoNormS0, norm_act("evonorm_b0", epsilon=1e-3), OwnLayer])
def test_activation_of_classes_and_factories(layer):
    assert gate_activation(layer) is jax.nn.silu


def test_activation_is_that_of_the_bound_layer():
    assert gate_activation(norm_act("gn_relu", num_groups=8)) is jax.nn.relu
