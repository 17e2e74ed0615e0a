"""The layers inside Flax NNX, through its bridge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from evonorm_jax import EvoNormB0, EvoNormS0
from evonorm_jax.errors import UserError
from tests.layers.deviations import make_case


def to_nnx(layer, case, *args):
    """The layer as an NNX module, holding the parameters and statistics of the case."""
    module = nnx.bridge.ToNNX(layer, rngs=nnx.Rngs(0)).lazy_init(case.x, *args)
    for name, value in (case.params | case.running).items():
        getattr(module, name)[...] = value
    return module


def test_s0_values_and_gradients():
    case = make_case("evonorm_s0")
    layer = EvoNormS0(num_groups=3)
    module = to_nnx(layer, case)
    np.testing.assert_allclose(module(case.x), layer.apply({"params": case.params}, case.x))

    gradients = nnx.grad(lambda module: jnp.sum(module(case.x) * case.cotangent))(module)
    expected = jax.grad(
        lambda params: jnp.sum(layer.apply({"params": params}, case.x) * case.cotangent)
    )(case.params)
    for name, value in expected.items():
        np.testing.assert_allclose(gradients[name][...], value, rtol=1e-5)


def test_b0_statistics_gradients_and_evaluation():
    case = make_case("evonorm_b0")
    layer = EvoNormB0()
    module = to_nnx(layer, case, False)
    variables = {"params": case.params, "batch_stats": case.running}

    def loss(module):
        y = module(case.x, use_running_average=False, mutable=["batch_stats"])
        return jnp.sum(y * case.cotangent)

    def linen_loss(params):
        y, updates = layer.apply(
            variables | {"params": params}, case.x, False, mutable=["batch_stats"]
        )
        return jnp.sum(y * case.cotangent), updates

    gradients = nnx.grad(loss)(module)
    expected, updates = jax.grad(linen_loss, has_aux=True)(case.params)
    for name, value in expected.items():
        np.testing.assert_allclose(gradients[name][...], value, rtol=1e-5)
    np.testing.assert_allclose(module.var[...], updates["batch_stats"]["var"])
    assert not np.allclose(module.var[...], case.running["var"])
    np.testing.assert_allclose(
        module(case.x, use_running_average=True),
        layer.apply(variables | updates, case.x, use_running_average=True),
    )


def test_b0_in_training_asks_for_mutable_statistics():
    case = make_case("evonorm_b0")
    module = to_nnx(EvoNormB0(), case, False)
    with pytest.raises(UserError, match=r'mutable=\["batch_stats"\]'):
        module(case.x, use_running_average=False)
