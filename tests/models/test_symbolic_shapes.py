"""One exported program for every number and size of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from evonorm_jax.models import create_model

NETWORKS = {
    "resnet50": {"stage_sizes": (1, 1), "num_filters": 4},
    "efficientnet_b0_same": {"stage_sizes": (1, 1), "padding": "same"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_for_every_size(name, random_variables):
    model = create_model(name.removesuffix("_same"), 10, **NETWORKS[name])
    variables = random_variables(model, jnp.ones((1, 32, 32, 3)))
    shape = export.symbolic_shape("n, h, w, 3")
    program = export.export(jax.jit(model.apply), platforms=("cpu", "cuda", "tpu"))(
        variables, jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    for size in ((3, 32, 24), (2, 33, 41)):
        images = jax.random.normal(jax.random.key(0), (*size, 3))
        expected = jax.jit(model.apply)(variables, images)
        actual = program.call(variables, images)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
