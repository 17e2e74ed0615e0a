"""Networks without their last layer, of every family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.models import create_model

# name -> fields that make it small, number of features
NETWORKS = {
    "resnet50": ({"stage_sizes": (1,), "num_filters": 4}, 16),
    "resnet18_v1": ({"stage_sizes": (1,), "num_filters": 4}, 4),
    "cifar_resnet20": ({"depth": 8, "num_filters": 4}, 16),
    "mobilenet_v2": ({"stage_sizes": (1,), "width_multiplier": 0.25, "min_head_channels": 24}, 320),
    "efficientnet_b0": ({"stage_sizes": (1,), "width_multiplier": 0.25}, 320),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_features(name, random_variables):
    fields, width = NETWORKS[name]
    model, headless = (create_model(name, n, norm_act="bn_relu", **fields) for n in (5, 0))
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = random_variables(model, images)

    def both(variables, images):
        return model.apply(variables, images), model.apply(variables, images, features=True)

    logits, features = jax.jit(both)(variables, images)
    assert (features.shape, features.dtype) == ((2, width), jnp.float32)
    head = variables["params"]["head"]
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], logits, rtol=1e-4)

    shapes = jax.eval_shape(headless.init, jax.random.key(0), images)
    assert shapes["params"].keys() == variables["params"].keys() - {"head"}
    params = {key: value for key, value in variables["params"].items() if key != "head"}
    without = jax.jit(headless.apply)({**variables, "params": params}, images)
    np.testing.assert_allclose(without, features, rtol=1e-6)
