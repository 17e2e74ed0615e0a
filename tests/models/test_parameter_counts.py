"""The size of every registered network, and what an EvoNorm network holds."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util

from evonorm_jax.errors import UserError
from evonorm_jax.models import count_parameters, create_model, model_names, native_image_size
from evonorm_jax.models.complexity import Complexity, measure_complexity
from evonorm_jax.models.table import num_classes, render
from tests.models.sizes import SIZES

EVONORM_NETWORKS = [name for name, row in SIZES.items() if row.evonorm_parameters is not None]
# These are the first of their family with other numbers; tracing all of them takes a minute.
LARGER = {
    *("resnet34", "resnet101", "resnet152", "resnet200"),
    *("resnet34_v1", "resnet101_v1", "resnet152_v1"),
    *("cifar_resnet32", "cifar_resnet56", "cifar_resnet110"),
    *(f"efficientnet_b{number}" for number in range(1, 8)),
}
# With EvoNorm, those that a config trains stay.
LARGER_EVONORM = LARGER.intersection(EVONORM_NETWORKS) - {
    *("resnet101", "cifar_resnet56", "efficientnet_b5")
}


def with_slow(names, slow):
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


def build(name, norm_act, **fields):
    return create_model(name, num_classes(name), norm_act=norm_act, **fields)


@functools.cache
def abstract_variables(name, norm_act):
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(build(name, norm_act).init, jax.random.key(0), images)
    return {
        collection: traverse_util.flatten_dict(tree, sep="/")
        for collection, tree in variables.items()
    }


def layers_of(params):
    return {path.rsplit("/", 1)[0] for path in params if "norm" in path}


def test_table_is_complete():
    assert tuple(SIZES) == model_names()
    assert SIZES.keys() >= LARGER


@pytest.mark.parametrize("name", with_slow(SIZES, LARGER))
def test_size_with_batch_norm(name):
    size = measure_complexity(build(name, "bn_relu"), native_image_size(name))
    assert size == Complexity(SIZES[name].batch_norm_parameters, SIZES[name].multiply_adds)


@pytest.mark.parametrize("name", with_slow(SIZES, LARGER_EVONORM))
def test_parameters_with_evonorm_s0(name):
    if name not in EVONORM_NETWORKS:
        with pytest.raises(UserError, match="pre-activation network"):
            build(name, "evonorm_s0")
        return
    params = abstract_variables(name, "evonorm_s0")["params"]
    assert sum(leaf.size for leaf in params.values()) == SIZES[name].evonorm_parameters
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    # torchvision's mobilenet_v2 and mnasnet0_5, timm's mobilenetv2_140.
    [
        ("mobilenet_v2", 0.5, 1_968_680),
        ("mobilenet_v2", 1.4, 6_108_776),
        ("mnasnet_b1", 0.5, 2_218_512),
    ],
)
def test_published_widths(name, width, parameters):
    assert count_parameters(build(name, "bn_relu", width_multiplier=width)) == parameters


def test_the_document_is_up_to_date():
    document = Path(__file__).parents[2] / "docs" / "models.md"
    assert document.read_text() == render(SIZES), (
        "python -m evonorm_jax.models.table > docs/models.md"
    )


def test_resnet50_by_hand():
    def stage(num_blocks, c_in, c):
        first = c_in * 4 * c + c_in * c + 9 * c * c + c * 4 * c  # shortcut, 1x1, 3x3, 1x1
        other = 4 * c * c + 9 * c * c + c * 4 * c
        channels_of_layers = (c_in + 2 * c) + (num_blocks - 1) * (4 * c + 2 * c)
        return first + (num_blocks - 1) * other, channels_of_layers

    stages = [stage(3, 64, 64), stage(4, 256, 128), stage(6, 512, 256), stage(3, 1024, 512)]
    convolutions = 7 * 7 * 3 * 64 + sum(weights for weights, _ in stages)
    channels_of_layers = sum(channels for _, channels in stages) + 2048
    dense = 2048 * 1000 + 1000
    assert convolutions == 23_454_912
    assert channels_of_layers == 22_720
    assert SIZES["resnet50"][:2] == (
        convolutions + 2 * channels_of_layers + dense,
        convolutions + 3 * channels_of_layers + dense,
    )


def test_efficientnet_b0_by_hand():
    # Blocks of each stage, in, expansion, out, kernel: table 1 of the paper.
    stages = [
        *[(1, 32, 1, 16, 3), (2, 16, 6, 24, 3), (2, 24, 6, 40, 5), (3, 40, 6, 80, 3)],
        *[(3, 80, 6, 112, 5), (4, 112, 6, 192, 5), (1, 192, 6, 320, 3)],
    ]
    weights, layers, linear = 27 * 32 + 320 * 1280, 32 + 1280, 0
    for blocks, channels, expansion, out, kernel in stages:
        for _ in range(blocks):
            wide, narrow = expansion * channels, channels // 4
            weights += wide * channels * (expansion > 1) + kernel**2 * wide + wide * out
            weights += 2 * wide * narrow + wide + narrow  # squeeze-excite and its biases
            layers += wide * (2 if expansion > 1 else 1)
            linear += out
            channels = out
    dense = 1280 * 1000 + 1000
    assert SIZES["efficientnet_b0"][:2] == (
        weights + 2 * (layers + linear) + dense,
        weights + 3 * layers + 2 * linear + dense,
    )


def test_count_parameters_leaves_statistics_out():
    model = build("cifar_resnet20", "bn_relu")
    assert count_parameters(model) == SIZES["cifar_resnet20"].batch_norm_parameters
    # The only kernel that sees the image is the stem's: 3x3x(1 - 3)x16.
    assert count_parameters(model, channels=1) == count_parameters(model) - 2 * 9 * 16


@pytest.mark.parametrize("name", with_slow(EVONORM_NETWORKS, LARGER_EVONORM))
def test_evonorm_s0_network_has_no_state_and_no_other_layer(name):
    variables = abstract_variables(name, "evonorm_s0")
    assert set(variables) == {"params"}
    layers = layers_of(variables["params"])
    assert layers
    for layer in layers:
        fields = {path.rsplit("/", 1)[1] for path in variables["params"] if layer + "/" in path}
        # No `v`: the layer stands without its nonlinearity, at the linear bottlenecks alone.
        linear = layer.endswith("/project_norm")
        assert fields == ({"scale", "bias"} if linear else {"scale", "bias", "v"})


@pytest.mark.parametrize("name", [name for name in EVONORM_NETWORKS if name not in LARGER])
def test_evonorm_b0_network_tracks_a_variance_and_never_a_mean(name):
    variables = abstract_variables(name, "evonorm_b0")
    layers = layers_of(variables["params"])
    nonlinear = {layer for layer in layers if not layer.endswith("/project_norm")}
    assert set(variables["batch_stats"]) == {f"{layer}/var" for layer in nonlinear}
    assert sum(leaf.size for leaf in variables["params"].values()) == SIZES[name].evonorm_parameters


@pytest.mark.parametrize("name", with_slow(EVONORM_NETWORKS, LARGER_EVONORM))
def test_every_other_vector_is_a_bias_of_the_head_or_of_squeeze_excite(name):
    params = abstract_variables(name, "evonorm_s0")["params"]
    vectors = {path for path, leaf in params.items() if leaf.ndim == 1 and "norm" not in path}
    gates = {path.rsplit("/", 2)[0] for path in params if "squeeze_excite" in path}
    expected = {f"{gate}/{dense}/bias" for gate in gates for dense in ("reduce", "expand")}
    assert vectors == expected | {"head/bias"}
    assert bool(gates) == name.startswith("efficientnet")


def test_names_of_a_bottleneck_block():
    params = abstract_variables("resnet50", "evonorm_s0")["params"]
    block = {path.split("/")[1] for path in params if path.startswith("stage1_block1/")}
    assert block == {"norm1", "conv1", "norm2", "conv2", "norm3", "conv3", "shortcut_conv"}
    assert not any(path.startswith("stage1_block2/shortcut") for path in params)


def test_names_of_an_inverted_residual_block():
    params = abstract_variables("efficientnet_b0", "evonorm_s0")["params"]
    names = {path.rsplit("/", 1)[0] for path in params}
    first = {name.split("/", 1)[1] for name in names if name.startswith("stage1_block1/")}
    second = {name.split("/", 1)[1] for name in names if name.startswith("stage2_block1/")}
    assert second - first == {"expand_conv", "expand_norm"}
    assert first == {
        *("depthwise_conv", "depthwise_norm", "squeeze_excite/reduce", "squeeze_excite/expand"),
        *("project_conv", "project_norm"),
    }
    outside = {name for name in names if not name.startswith("stage")}
    assert outside == {"stem_conv", "stem_norm", "head_conv", "head_norm", "head"}
