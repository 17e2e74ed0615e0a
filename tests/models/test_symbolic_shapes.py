"""One exported program for every number and size of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from evonorm_jax.models import create_model
from evonorm_jax.models.spinenet import SpineNet
from evonorm_jax.norm_act import norm_act

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


# Every family, and what leads through other convolutions, pools and padding.
BN = {"norm_act": "bn_relu"}
TRACED = [
    ("resnet50", {"stage_sizes": (1, 1), "num_filters": 4}),
    ("resnet50", {"stage_sizes": (1, 1), "stem": "imagenet_deep", "avg_down": True}),
    ("resnet18", {"stage_sizes": (1, 1), "avg_down": True}),
    ("resnet50_v1", {"stage_sizes": (1, 1), "avg_down": True, **BN}),
    ("resnet18_v1", {"stage_sizes": (1, 1), "stem": "cifar", **BN}),
    ("cifar_resnet20", {"depth": 8}),
    ("mobilenet_v2", {"stage_sizes": (1, 1)}),
    ("efficientnet_b0", {"stage_sizes": (1, 1), "norm_act": "evonorm_b0"}),
    ("efficientnet_b0", {"stage_sizes": (1, 1), "padding": "same"}),
]


def traced(model, shape):
    """The output of a training step's forward pass, under JAX's strictest rule of shapes."""
    sides = [side if isinstance(side, int) else 128 for side in shape]
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones(sides))
    with jax.numpy_rank_promotion("raise"):
        output, _ = jax.eval_shape(
            lambda variables, x: model.apply(variables, x, train=True, mutable=["batch_stats"]),
            variables,
            jax.ShapeDtypeStruct(shape, jnp.float32),
        )
    return output


@pytest.mark.parametrize(("name", "fields"), TRACED)
def test_every_network_is_traced_for_every_size(name, fields):
    shape = export.symbolic_shape("n, h, w, 3")
    logits = traced(create_model(name, 10, **fields), shape)
    assert logits.shape == (shape[0], 10)


@pytest.mark.slow
def test_backbones_are_traced_for_every_multiple_of_their_stride():
    n, h, w, channels = export.symbolic_shape("n, 128 * h, 128 * w, 3")
    maps = traced(SpineNet(norm_act("bn_relu"), filter_scale=0.1), (n, h, w, channels))
    assert {level: leaf.shape for level, leaf in maps.items()} == {
        level: (n, h // 2**level, w // 2**level, 256) for level in range(3, 8)
    }
