"""The whole networks: shapes, modes, dtypes, every layer, and Flax's own BatchNorm."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from evonorm_jax import EvoNormS0
from evonorm_jax.errors import UserError
from evonorm_jax.models import create_model
from evonorm_jax.norm_act import fuses_activation, norm_act, norm_act_names
from tests.kernels.accelerators import lower

TINY = {
    "resnet50": {"stage_sizes": (1, 1), "num_filters": 4},
    "resnet18": {"stage_sizes": (1, 1), "num_filters": 4, "stem": "cifar"},
    "resnet50_v1": {"stage_sizes": (1, 1), "num_filters": 4},
    "cifar_resnet20": {"depth": 8, "num_filters": 4},
}


def images_like(shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(7), shape, dtype)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(model, variables, images):
    return model.apply(variables, images)


@pytest.mark.parametrize("name", norm_act_names())
def test_every_layer_trains_in_a_network(name, random_variables):
    """Forward, gradient and new statistics of a training step are finite, and not zero."""
    model = create_model(
        "resnet18", 3, norm_act=name, stage_sizes=(1,), num_filters=4, stem="cifar"
    )
    images = images_like((4, 6, 6, 3))
    variables = random_variables(model, images)
    params = variables.pop("params")

    @jax.jit
    def step(params, state, images):
        def loss(params):
            logits, new_state = model.apply(
                {"params": params} | state, images, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(logits**2), new_state

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, new_state), gradient = step(params, variables, images)
    assert np.isfinite(value)
    assert value > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.abs(gradient["stem_conv"]["kernel"]).max() > 0
    assert jax.tree.structure(variables) == jax.tree.structure(new_state)
    for old, new in zip(jax.tree.leaves(variables), jax.tree.leaves(new_state), strict=True):
        assert np.isfinite(new).all()
        assert not np.array_equal(old, new)


class FlaxBatchNormReLU(nn.Module):
    """Flax's BatchNorm behind the interface of a layer: what any user may write and pass."""

    use_running_average: bool | None = None
    nonlinearity: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        y = nn.BatchNorm(self.use_running_average, momentum=0.9, dtype=self.dtype, name="bn")(x)
        return nn.relu(y) if self.nonlinearity else y


def without_level(tree, level="bn"):
    return {
        key: value[level]
        if isinstance(value, dict) and level in value
        else without_level(value, level)
        if isinstance(value, dict)
        else value
        for key, value in tree.items()
    }


def test_bn_relu_network_equals_one_with_flax_batch_norm(random_variables):
    fields = {"num_classes": 3, "stage_sizes": (1, 1), "num_filters": 4, "stem": "cifar"}
    theirs = create_model("resnet18", norm_act=FlaxBatchNormReLU, **fields)
    ours = create_model("resnet18", norm_act="bn_relu", **fields)
    images = images_like((4, 6, 6, 3))
    variables = random_variables(theirs, images)

    def outputs(model, variables):
        def loss(params):
            logits, state = model.apply(
                variables | {"params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.sin(logits)), (logits, state["batch_stats"])

        return jax.grad(loss, has_aux=True)(variables["params"])

    grad, (logits, stats) = jax.jit(functools.partial(outputs, theirs))(variables)
    translated = {key: without_level(tree) for key, tree in variables.items()}
    our_grad, (our_logits, our_stats) = jax.jit(functools.partial(outputs, ours))(translated)

    np.testing.assert_allclose(our_logits, logits, rtol=1e-4, atol=1e-6)
    for tree, our_tree in ((grad, our_grad), (stats, our_stats)):
        expected = without_level(tree)
        assert jax.tree.structure(expected) == jax.tree.structure(our_tree)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), our_tree, expected
        )


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet50", "evonorm_b0"), ("cifar_resnet20", "evonorm_s0"), ("resnet50_v1", "bn_relu")],
)
def test_evaluation_does_not_depend_on_the_rest_of_the_batch(name, layer, random_variables):
    model = create_model(name, 5, norm_act=layer, **TINY[name])
    images = images_like((4, 16, 12, 3))
    variables = random_variables(model, images)
    together = evaluate(model, variables, images)
    reversed_order = evaluate(model, variables, images[::-1])[::-1]
    alone = jnp.concatenate([evaluate(model, variables, images[i : i + 1]) for i in range(4)])
    assert np.abs(together[0] - together[1]).max() > 1e-2
    np.testing.assert_allclose(together, reversed_order, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet50", "evonorm_s0"), ("cifar_resnet20", "evonorm_b0"), ("resnet50_v1", "bn_relu")],
)
def test_bfloat16(name, layer, random_variables):
    images = images_like((4, 16, 16, 3))
    model = create_model(name, 5, norm_act=layer, dtype="bfloat16", **TINY[name])
    reference = create_model(name, 5, norm_act=layer, **TINY[name])
    variables = random_variables(model, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    @jax.jit
    def both(variables, images):
        return tuple(
            network.apply(variables, images, train=True, mutable=["batch_stats"])
            for network in (model, reference)
        )

    (logits, state), (expected, expected_state) = both(variables, images)
    assert logits.dtype == jnp.float32
    # bfloat16 keeps 8 bits, 0.4% an operation; about 20 of them in a row.
    np.testing.assert_allclose(logits, expected, atol=0.05 * float(np.abs(expected).max()))
    assert not np.array_equal(logits, expected)
    for leaf, expected_leaf in zip(
        jax.tree.leaves(state), jax.tree.leaves(expected_state), strict=True
    ):
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, expected_leaf, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TINY)
def test_convolutions_and_layers_compute_in_dtype(name, dtype):
    model = create_model(name, 5, norm_act="bn_relu", dtype=dtype, **TINY[name])
    _, captured = shapes_of_submodules(model, (2, 16, 16, 3))
    outputs = jax.tree.leaves({key: value for key, value in captured.items() if key != "head"})
    blocks = [leaf for leaf in outputs if leaf.ndim == 4]
    assert len(blocks) > 10
    assert {leaf.dtype for leaf in blocks} == {jnp.dtype(dtype)}


def shapes_of_submodules(model, images_shape):
    images = jax.ShapeDtypeStruct(images_shape, jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    apply = functools.partial(model.apply, capture_intermediates=True, mutable=["intermediates"])
    logits, state = jax.eval_shape(apply, variables, images)
    captured = state["intermediates"]
    captured.pop("__call__")
    return logits, captured


@pytest.mark.parametrize(
    ("image_size", "maps"),
    # Stem 7x7/2 and pool /2 (stage 1), then /2 for each stage, every time rounded up.
    [
        ((224, 224), [(56, 56), (28, 28), (14, 14), (7, 7)]),
        ((225, 97), [(57, 25), (29, 13), (15, 7), (8, 4)]),
        ((33, 47), [(9, 12), (5, 6), (3, 3), (2, 2)]),
        ((1, 2), [(1, 1), (1, 1), (1, 1), (1, 1)]),
    ],
)
@pytest.mark.parametrize("name", ["resnet50", "resnet50_v1"])
def test_feature_maps_of_any_image_size(name, image_size, maps):
    model = create_model(name, 5, norm_act="bn_relu", stage_sizes=(1, 1, 1, 1))
    logits, captured = shapes_of_submodules(model, (2, *image_size, 3))
    assert logits.shape == (2, 5)
    for stage, size in enumerate(maps):
        (block,) = captured[f"stage{stage + 1}_block1"]["__call__"]
        assert block.shape == (2, *size, 256 * 2**stage)


def test_cifar_stem_keeps_the_resolution():
    model = create_model("resnet18", 10, norm_act="evonorm_s0", stem="cifar")
    _, captured = shapes_of_submodules(model, (2, 32, 31, 3))
    assert captured["stem_conv"]["__call__"][0].shape == (2, 32, 31, 64)
    assert captured["stage1_block1"]["__call__"][0].shape == (2, 32, 31, 64)
    assert captured["stage4_block2"]["__call__"][0].shape == (2, 4, 4, 512)


@pytest.mark.parametrize(("depth", "blocks"), [(20, 3), (110, 18)])
def test_cifar_resnet_stages(depth, blocks):
    model = create_model(f"cifar_resnet{depth}", 10, norm_act="evonorm_s0")
    _, captured = shapes_of_submodules(model, (2, 32, 32, 3))
    convolutions = [
        key for block in captured.values() for key in block if key in ("conv1", "conv2")
    ]
    assert len(convolutions) + 2 == depth  # the stem and the dense layer
    for stage, (size, channels) in enumerate([(32, 16), (16, 32), (8, 64)]):
        last = captured[f"stage{stage + 1}_block{blocks}"]["__call__"][0]
        assert last.shape == (2, size, size, channels)
        assert f"stage{stage + 1}_block{blocks + 1}" not in captured
    projections = {name for name, block in captured.items() if "shortcut_conv" in block}
    assert projections == {"stage2_block1", "stage3_block1"}


def test_projections_of_v1_where_the_shape_changes():
    basic = create_model("resnet18_v1", 10, norm_act="bn_relu")
    bottleneck = create_model("resnet50_v1", 10, norm_act="bn_relu")
    for model, first in ((basic, 2), (bottleneck, 1)):
        _, captured = shapes_of_submodules(model, (1, 32, 32, 3))
        projections = {name for name, block in captured.items() if "shortcut_conv" in block}
        assert projections == {f"stage{stage}_block1" for stage in range(first, 5)}


@pytest.mark.parametrize("layer", ["frn", "bn_swish", "gn_swish"])
def test_v1_refuses_activations_with_parameters(layer):
    with pytest.raises(UserError, match="no activation that can stand alone"):
        create_model("resnet50_v1", 10, norm_act=layer)


def test_dropout_needs_its_rng_in_training_alone(random_variables):
    model = create_model("cifar_resnet20", 5, dropout_rate=0.5, **TINY["cifar_resnet20"])
    images = images_like((2, 8, 8, 3))
    variables = random_variables(model, images)
    train = jax.jit(lambda key: model.apply(variables, images, train=True, rngs={"dropout": key}))
    assert not np.allclose(train(jax.random.key(1)), train(jax.random.key(2)))
    assert np.isfinite(evaluate(model, variables, images)).all()


def test_parameters_of_another_number_of_channels():
    model = create_model("cifar_resnet20", 5)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8, 8, 1)))
    with pytest.raises(UserError, match=r"3 channels last, but the parameters were .* for 1"):
        jax.eval_shape(model.apply, variables, jnp.ones((1, 8, 8, 3)))


@pytest.mark.parametrize("layer", [name for name in norm_act_names() if fuses_activation(name)])
def test_v1_refuses_fused_layers(layer):
    with pytest.raises(UserError, match=r"fuses .* take the pre-activation network .* resnet50"):
        create_model("resnet50_v1", 10, norm_act=norm_act(layer))


@pytest.mark.parametrize("layer", ["evonorm_b0", "evonorm_s0", "bn_relu"])
def test_v1_with_affine_residual_norms(layer, random_variables):
    """Where no activation follows, a fused layer is its affine map; ReLU follows the addition."""
    model = create_model(
        "resnet50_v1", None, norm_act=layer, residual_norm="affine", **TINY["resnet50_v1"]
    )
    images = images_like((2, 16, 16, 3))
    variables = random_variables(model, images)
    maps, captured = jax.jit(
        functools.partial(model.apply, capture_intermediates=True, mutable=["intermediates"])
    )(variables, images)
    assert list(maps) == [2, 3]
    block, params = captured["intermediates"]["stage2_block1"], variables["params"]["stage2_block1"]
    total = block["norm3"]["__call__"][0] + block["shortcut_norm"]["__call__"][0]
    np.testing.assert_array_equal(maps[3], np.maximum(total, 0))
    assert 0.1 < np.mean(maps[3] == 0) < 0.9
    fused = fuses_activation(layer)
    assert ("v" in params["norm1"]) == fused
    assert "v" not in params["norm3"]
    if fused:
        conv = block["conv3"]["__call__"][0]
        affine = conv * params["norm3"]["scale"] + params["norm3"]["bias"]
        np.testing.assert_allclose(block["norm3"]["__call__"][0], affine, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "channels"), [("resnet50", 256), ("resnet18_v1", 64)])
def test_a_backbone_returns_its_maps_by_level(name, channels):
    model = create_model(name, None, norm_act="bn_relu", dtype="bfloat16")
    images = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    maps, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert {level: (leaf.shape, leaf.dtype) for level, leaf in maps.items()} == {
        level: ((2, 64 >> level, 96 >> level, channels * 2 ** (level - 2)), jnp.bfloat16)
        for level in (2, 3, 4, 5)
    }
    classifier = create_model(name, 10, norm_act="bn_relu")
    trunk, whole = (
        set(jax.eval_shape(network.init, jax.random.key(0), images)["params"])
        for network in (model, classifier)
    )
    # The rest carries over from a classifier; a pre-activation one has layers of its own.
    own = {f"stage{stage}_norm" for stage in range(1, 5)} if name == "resnet50" else set()
    assert trunk - whole == own
    assert whole - trunk == ({"head", "head_norm"} if name == "resnet50" else {"head"})


def test_only_residual_networks_are_backbones():
    with pytest.raises(UserError, match="num_classes=None: expected an integer"):
        create_model("mobilenet_v2", None)


def test_the_kernel_adds_the_gradients_of_the_shortcuts():
    """In each block without a projection; `tests/layers/test_fused.py` has the values."""
    images = images_like((2, 8, 8, 3))
    layer = norm_act("evonorm_s0", implementation="pallas_shortcut")
    model = create_model("resnet18", 3, layer, stage_sizes=(2,), num_filters=16, stem="cifar")
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    gradient = jax.grad(lambda v: jnp.sum(model.apply(v, images, train=True) ** 2))
    calls = re.findall(r"call @_backward\w*\((.*?)\)", lower(gradient, "cuda", variables))
    # Of five layers, one has a gradient of a shortcut beside those that all have.
    operands = sorted(len(call.split(",")) for call in calls)
    assert operands == [operands[0]] * 4 + [operands[0] + 1]


class EvoNormS0OfAUser(EvoNormS0):
    """A layer with a signature of its own."""

    def __call__(self, x, use_running_average=None):
        return super().__call__(x, use_running_average)


@pytest.mark.parametrize("layer", [nn.remat(EvoNormS0), nn.jit(EvoNormS0), EvoNormS0OfAUser])
def test_transformed_layers(layer):
    images = images_like((2, 4, 4, 3))
    plain, transformed = (
        create_model("resnet18", 3, norm_act, stage_sizes=(2,), num_filters=4, stem="cifar")
        for norm_act in (EvoNormS0, layer)
    )
    variables = plain.init(jax.random.key(0), images)
    logits = transformed.apply(variables, images)
    np.testing.assert_allclose(logits, plain.apply(variables, images), rtol=1e-6)
