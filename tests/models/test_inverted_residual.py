"""MobileNetV2, MnasNet-B1 and EfficientNet: against plain functions, shapes, modes, every layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.models import create_model
from evonorm_jax.models.inverted_residual import round_channels
from evonorm_jax.models.stochastic_depth import linear_survival
from evonorm_jax.norm_act import accepts_field, norm_act_names
from tests.models import plain_networks as plain

# Three blocks of 8 channels at their ends; the head is the largest part of it.
TINY = {"width_multiplier": 0.25, "stage_sizes": (1, 2)}
FAMILIES = ("mobilenet_v2", "mnasnet_b1", "efficientnet_b0")
# Every layer in the family that has squeeze-excite, too; a layer of each kind in the others.
KINDS = ("bn_relu", "evonorm_b0", "evonorm_s0", "frn", "gn_silu")


def images_like(shape):
    return jnp.asarray(np.random.default_rng(2).standard_normal(shape), jnp.float32)


def traced(model, image_size):
    """Shapes of the variables and of what every submodule returns."""
    images = jax.ShapeDtypeStruct((2, image_size, image_size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    apply = functools.partial(model.apply, capture_intermediates=True, mutable=["intermediates"])
    logits, state = jax.eval_shape(apply, variables, images)
    return logits, variables, state["intermediates"]


@pytest.mark.parametrize(
    ("name", "layer_name", "layer", "linear", "activation"),
    [
        ("mobilenet_v2", "bn_relu", plain.plain_bn_relu, plain.plain_batch_norm, None),
        ("mnasnet_b1", "evonorm_s0", plain.plain_evonorm_s0, plain.plain_affine, None),
        *(
            ("efficientnet_b0", *layers)
            for layers in [
                ("bn_silu", plain.plain_bn_silu, plain.plain_batch_norm, plain.plain_silu),
                ("bn_relu", plain.plain_bn_relu, plain.plain_batch_norm, plain.plain_relu),
                ("evonorm_s0", plain.plain_evonorm_s0, plain.plain_affine, plain.plain_silu),
            ]
        ),
    ],
)
def test_network_against_plain_functions(
    name, layer_name, layer, linear, activation, random_variables
):
    model = create_model(name, 5, norm_act=layer_name, **TINY)
    images = images_like((3, 18, 15, 3))
    params = random_variables(model, images)["params"]
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    logits, _ = train({"params": params}, images)

    in_float64 = functools.partial(np.asarray, dtype=np.float64)
    expected = plain.plain_inverted_residual_network(
        in_float64(images),
        jax.tree.map(in_float64, params),
        layer,
        linear,
        strides=(2, 1, 2, 1),
        activation=activation,
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_gradient_against_plain_functions(random_variables):
    model = create_model("efficientnet_b0", 3, norm_act="evonorm_s0", stem="cifar", **TINY)
    images = images_like((2, 6, 5, 3))
    params = random_variables(model, images)["params"]

    def ours(params):
        return model.apply({"params": params}, images, train=True)

    def theirs(params):
        layers = plain.plain_evonorm_s0, plain.plain_affine
        return plain.plain_inverted_residual_network(images, params, *layers, (1, 1, 1, 1))

    def gradient(function):
        return jax.jit(jax.grad(lambda params: jnp.sum(jnp.sin(function(params)))))(params)

    actual, expected = gradient(ours), gradient(theirs)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        our = functools.reduce(lambda tree, key: tree[key.key], path, actual)
        scale = float(jnp.abs(leaf).max())
        assert scale > 0
        np.testing.assert_allclose(our, leaf, rtol=1e-3, atol=1e-4 * scale, err_msg=str(path))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        pytest.param(
            name,
            layer,
            marks=[] if name == "efficientnet_b0" or layer in KINDS else [pytest.mark.slow],
        )
        for name in FAMILIES
        for layer in norm_act_names()
    ],
)
def test_every_layer_builds_every_network(name, layer):
    model = create_model(name, 10, norm_act=layer, stage_sizes=(1, 1))
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    train = functools.partial(model.init_with_output, train=True)
    logits, variables = jax.eval_shape(train, jax.random.key(0), images)
    assert logits.shape == (2, 10)
    assert ("batch_stats" in variables) == accepts_field(layer, "virtual_batch_size")


@pytest.mark.parametrize(("padding", "dtype"), [("symmetric", "bfloat16"), ("same", "float32")])
def test_feature_maps(padding, dtype):
    model = create_model("efficientnet_b0", 7, norm_act="bn_silu", padding=padding, dtype=dtype)
    logits, _, captured = traced(model, 224)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    sizes = {1: 112, 2: 56, 3: 28, 4: 14, 5: 14, 6: 7, 7: 7}
    channels = {1: 16, 2: 24, 3: 40, 4: 80, 5: 112, 6: 192, 7: 320}
    for stage, size in sizes.items():
        (block,) = captured[f"stage{stage}_block1"]["__call__"]
        assert block.shape == (2, size, size, channels[stage])
        assert block.dtype == jnp.dtype(dtype)
    assert captured["head_norm"]["__call__"][0].shape == (2, 7, 7, 1280)
    maps = [leaf for leaf in jax.tree.leaves(captured) if leaf.ndim == 4]
    assert len(maps) > 100
    assert {leaf.dtype for leaf in maps} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("name", FAMILIES)
def test_cifar_stem_is_four_times_finer(name):
    _, _, captured = traced(create_model(name, 10, stem="cifar"), 32)
    sizes = [captured[f"stage{stage}_block1"]["__call__"][0].shape[1] for stage in range(1, 8)]
    assert captured["stem_norm"]["__call__"][0].shape[1] == 32
    assert sizes == [32, 32, 16, 8, 8, 4, 4]


@pytest.mark.parametrize(
    ("name", "fields", "blocks", "head"),
    [
        ("mobilenet_v2", {}, 17, 1280),
        ("mobilenet_v2", {"width_multiplier": 0.5}, 17, 1280),
        ("mobilenet_v2", {"width_multiplier": 1.4}, 17, 1792),
        ("mobilenet_v2", {"width_multiplier": 0.25, "min_head_channels": 8}, 17, 320),
        ("mnasnet_b1", {"width_multiplier": 1.4}, 17, 1280),
        ("efficientnet_b0", {"width_multiplier": 0.5}, 16, 640),
        ("efficientnet_b5", {}, 39, 2048),
        ("efficientnet_b7", {}, 55, 2560),
        ("efficientnet_b7", {"stage_sizes": (1, 1)}, 8, 2560),
    ],
)
def test_depths_and_widths_of_the_head(name, fields, blocks, head):
    model = create_model(name, 10, norm_act="bn_relu", **fields)
    assert sum(model.num_blocks) == blocks
    assert model.head_channels == head


@pytest.mark.parametrize(
    ("channels", "rounded"),
    # 4 is half way and goes up; 8 would be more than 10% below 11.9, and 16 below 19.9.
    [(3, 8), (8, 8), (8.5, 8), (11.9, 16), (12, 16), (19.9, 24), (35.2, 32), (36, 40)],
)
def test_round_channels(channels, rounded):
    assert round_channels(channels) == rounded


def test_dropout_and_stochastic_depth_act_in_training_alone(random_variables):
    fields = {"norm_act": "evonorm_s0", **TINY}
    model = create_model("mnasnet_b1", 5, survival_probability=0.4, dropout_rate=0.3, **fields)
    images = images_like((16, 8, 8, 3))
    variables = random_variables(model, images)
    train = jax.jit(lambda key: model.apply(variables, images, train=True, rngs={"dropout": key}))
    assert not np.allclose(train(jax.random.key(1)), train(jax.random.key(2)))
    # Evaluation needs no rng and is the network without either.
    evaluate = jax.jit(model.apply)(variables, images)
    neither = jax.jit(create_model("mnasnet_b1", 5, **fields).apply)(variables, images)
    np.testing.assert_array_equal(evaluate, neither)


def test_a_branch_is_left_out_or_scaled_by_its_survival(random_variables):
    """One image many times: the third of three blocks, the one with a sum, adds it or nothing."""
    probability = linear_survival(0.4, 2, 3)
    assert probability == pytest.approx(0.6)
    model = create_model("mnasnet_b1", 5, norm_act="evonorm_s0", survival_probability=0.4, **TINY)
    images = jnp.tile(images_like((1, 8, 8, 3)), (512, 1, 1, 1))
    variables = random_variables(model, images[:1])

    def block_outputs(key):
        _, state = model.apply(
            variables,
            images,
            train=True,
            rngs={"dropout": key},
            capture_intermediates=lambda module, _: (
                module.name in ("stage2_block1", "stage2_block2")
            ),
            mutable=["intermediates"],
        )
        return [state["intermediates"][f"stage2_block{i}"]["__call__"][0] for i in (1, 2)]

    before, after = jax.jit(block_outputs)(jax.random.key(0))
    added = np.asarray(after - before)
    survived = np.abs(added).max(axis=(1, 2, 3)) > 1e-6
    assert abs(survived.mean() - probability) < 0.1  # standard error 0.022

    whole = create_model("mnasnet_b1", 5, norm_act="evonorm_s0", **TINY)
    _, state = jax.jit(
        functools.partial(whole.apply, capture_intermediates=True, mutable=["intermediates"])
    )(variables, images[:1])
    branch = state["intermediates"]["stage2_block2"]["project_norm"]["__call__"][0]
    expected = np.broadcast_to(branch / probability, added[survived].shape)
    np.testing.assert_allclose(added[survived], expected, rtol=1e-3, atol=1e-4)


def test_a_list_of_stages_is_hashable():
    model = create_model("mobilenet_v2", 10, stage_sizes=[1, 1])
    assert hash(model) == hash(model.clone())
