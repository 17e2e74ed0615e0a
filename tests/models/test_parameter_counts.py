"""A closed table of the size of every registered network, and what an EvoNorm network holds."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util

from evonorm_jax.errors import UserError
from evonorm_jax.models import count_parameters, create_model, model_names

# Parameters with 1000 classes (10 for CIFAR). EvoNorm has one more vector per layer, `v`.
# resnet*_v1 with BatchNorm are torchvision's figures and resnet50 is timm's resnetv2_50.
PARAMETER_COUNTS = {
    "resnet18": {"bn_relu": 11_691_816, "evonorm_s0": 11_695_720, "evonorm_b0": 11_695_720},
    "resnet34": {"bn_relu": 21_799_976, "evonorm_s0": 21_807_592, "evonorm_b0": 21_807_592},
    "resnet50": {"bn_relu": 25_549_352, "evonorm_s0": 25_572_072, "evonorm_b0": 25_572_072},
    "resnet101": {"bn_relu": 44_541_480, "evonorm_s0": 44_590_312, "evonorm_b0": 44_590_312},
    "resnet152": {"bn_relu": 60_185_128, "evonorm_s0": 60_257_000, "evonorm_b0": 60_257_000},
    "resnet200": {"bn_relu": 64_666_152, "evonorm_s0": 64_750_312, "evonorm_b0": 64_750_312},
    "resnet18_v1": {"bn_relu": 11_689_512, "evonorm_s0": None, "evonorm_b0": None},
    "resnet34_v1": {"bn_relu": 21_797_672, "evonorm_s0": None, "evonorm_b0": None},
    "resnet50_v1": {"bn_relu": 25_557_032, "evonorm_s0": None, "evonorm_b0": None},
    "resnet101_v1": {"bn_relu": 44_549_160, "evonorm_s0": None, "evonorm_b0": None},
    "resnet152_v1": {"bn_relu": 60_192_808, "evonorm_s0": None, "evonorm_b0": None},
    "cifar_resnet20": {"bn_relu": 272_282, "evonorm_s0": 272_970, "evonorm_b0": 272_970},
    "cifar_resnet32": {"bn_relu": 466_714, "evonorm_s0": 467_850, "evonorm_b0": 467_850},
    "cifar_resnet56": {"bn_relu": 855_578, "evonorm_s0": 857_610, "evonorm_b0": 857_610},
    "cifar_resnet110": {"bn_relu": 1_730_522, "evonorm_s0": 1_734_570, "evonorm_b0": 1_734_570},
}
EVONORM_NETWORKS = [name for name in PARAMETER_COUNTS if not name.endswith("_v1")]


def build(name, norm_act):
    return create_model(name, 10 if name.startswith("cifar") else 1000, norm_act=norm_act)


@functools.cache
def abstract_variables(name, norm_act):
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(build(name, norm_act).init, jax.random.key(0), images)
    return {
        collection: traverse_util.flatten_dict(tree, sep="/")
        for collection, tree in variables.items()
    }


def test_table_is_complete():
    assert set(PARAMETER_COUNTS) == set(model_names())


@pytest.mark.parametrize("norm_act", ["bn_relu", "evonorm_s0", "evonorm_b0"])
@pytest.mark.parametrize("name", PARAMETER_COUNTS)
def test_parameter_count(name, norm_act):
    expected = PARAMETER_COUNTS[name][norm_act]
    if expected is None:
        with pytest.raises(UserError, match="pre-activation network"):
            build(name, norm_act)
        return
    params = abstract_variables(name, norm_act)["params"]
    assert sum(leaf.size for leaf in params.values()) == expected
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("float32")}


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
    assert PARAMETER_COUNTS["resnet50"] == {
        "bn_relu": convolutions + 2 * channels_of_layers + dense,
        "evonorm_s0": convolutions + 3 * channels_of_layers + dense,
        "evonorm_b0": convolutions + 3 * channels_of_layers + dense,
    }


def test_count_parameters_leaves_statistics_out():
    model = build("cifar_resnet20", "bn_relu")
    assert count_parameters(model) == PARAMETER_COUNTS["cifar_resnet20"]["bn_relu"]
    # The only kernel that sees the image is the stem's: 3x3x(1 - 3)x16.
    assert count_parameters(model, channels=1) == count_parameters(model) - 2 * 9 * 16


@pytest.mark.parametrize("name", EVONORM_NETWORKS)
def test_evonorm_s0_network_has_no_state_and_no_other_layer(name):
    variables = abstract_variables(name, "evonorm_s0")
    assert set(variables) == {"params"}
    layers = {path.rsplit("/", 1)[0] for path in variables["params"] if "norm" in path}
    assert layers
    for layer in layers:
        fields = {path.rsplit("/", 1)[1] for path in variables["params"] if layer + "/" in path}
        # `v` present everywhere: no layer stands without its nonlinearity.
        assert fields == {"scale", "bias", "v"}


@pytest.mark.parametrize("name", EVONORM_NETWORKS)
def test_evonorm_b0_network_tracks_a_variance_and_never_a_mean(name):
    variables = abstract_variables(name, "evonorm_b0")
    layers = {path.rsplit("/", 1)[0] for path in variables["params"] if "norm" in path}
    assert set(variables["batch_stats"]) == {f"{layer}/var" for layer in layers}


@pytest.mark.parametrize("name", EVONORM_NETWORKS)
def test_every_vector_but_the_last_bias_belongs_to_a_layer(name):
    params = abstract_variables(name, "evonorm_s0")["params"]
    vectors = {path for path, leaf in params.items() if leaf.ndim == 1 and "norm" not in path}
    assert vectors == {"head/bias"}


def test_names_of_a_bottleneck_block():
    params = abstract_variables("resnet50", "evonorm_s0")["params"]
    block = {path.split("/")[1] for path in params if path.startswith("stage1_block1/")}
    assert block == {"norm1", "conv1", "norm2", "conv2", "norm3", "conv3", "shortcut_conv"}
    assert not any(path.startswith("stage1_block2/shortcut") for path in params)
