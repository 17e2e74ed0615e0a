"""`remat=True`: the same network, that keeps less for the gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.benchmarks.layer_program import residual_bytes
from evonorm_jax.errors import UserError
from evonorm_jax.models import create_model
from evonorm_jax.models.rematerialize import rematerialize

SMALL = {
    "resnet50": {"stage_sizes": (1, 1), "num_filters": 4},
    "resnet18_v1": {"stage_sizes": (1, 1), "num_filters": 4},
    "cifar_resnet20": {"depth": 8, "num_filters": 4},
    "mobilenet_v2": {"stage_sizes": (1, 1), "dropout_rate": 0.2},
    "efficientnet_b0": {"stage_sizes": (1, 1), "survival_probability": 0.5},
}


def small_network(name, **fields):
    layer = "bn_relu" if name.endswith("_v1") else "evonorm_b0"
    return create_model(name, 10, norm_act=layer, **SMALL[name], **fields)


def loss_of(model, images, state):
    """A function of the parameters, with the new statistics beside its value."""

    def loss(params):
        logits, updates = model.apply(
            {"params": params, "batch_stats": state},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )
        return jnp.sum(jnp.square(logits)), updates

    return loss


@pytest.mark.parametrize("name", SMALL)
def test_values_gradients_and_statistics_stay(name, random_variables):
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    plain, remat = small_network(name), small_network(name, remat=True)
    variables = random_variables(plain, images)
    assert jax.tree.map(jnp.shape, random_variables(remat, images)) == jax.tree.map(
        jnp.shape, variables
    )
    params, state = variables["params"], variables["batch_stats"]
    results, kept = [], []
    for model in (plain, remat):
        loss = loss_of(model, images, state)
        results.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(params))
        kept.append(residual_bytes(loss, params))
    for actual, expected in zip(*map(jax.tree.leaves, results), strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * scale)
    assert kept[1] < 0.8 * kept[0]


def test_without_it_the_block_is_itself():
    assert rematerialize(nn.Dense, False) is nn.Dense


@pytest.mark.parametrize("name", SMALL)
def test_refusal(name):
    with pytest.raises(UserError, match=r"remat='yes': expected True or False\."):
        small_network(name, remat="yes")
