"""State dicts to variables and back: layouts by hand, exactness, and what is refused."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.interop import (
    create_timm_model,
    from_timm_state_dict,
    timm_tensors,
    to_timm_state_dict,
)
from tests.interop.cases import make_case

# One block in each of two stages; the other networks at their full depth, nothing is computed.
SMALL = {"stage_sizes": (1, 1), "num_filters": 4}
NETWORKS = {
    "resnet50": SMALL,
    "resnet50d": SMALL,
    "resnetv2_50": SMALL,
    "resnetv2_50d_evos": SMALL,
    "mobilenetv2_050": {"stage_sizes": (1, 2)},
    "efficientnet_b0": {"stage_sizes": (1, 1, 1)},
}


def state_dict_of(name, num_classes=5, channels=3):
    tensors = timm_tensors(name, num_classes, channels, **NETWORKS[name])
    shapes = {key: tensor.timm_shape for key, tensor in tensors.items()}
    means = [key for key in shapes if key.endswith("running_mean")]
    shapes |= {key.replace("running_mean", "num_batches_tracked"): () for key in means}
    return make_case(shapes, batch=1, image_size=8, num_classes=num_classes).state_dict


def load(name, state_dict):
    return from_timm_state_dict(state_dict, name, **NETWORKS[name])


@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip_is_exact(name):
    state_dict = state_dict_of(name, num_classes=3, channels=1)
    variables = load(name, state_dict)
    model = create_timm_model(name, 3, **NETWORKS[name])
    images = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.tree.structure(variables) == jax.tree.structure(shapes)
    jax.tree.map(
        lambda array, shape: np.testing.assert_equal(array.shape, shape.shape), *(variables, shapes)
    )
    back = to_timm_state_dict(variables, name, **NETWORKS[name])
    assert back.keys() == state_dict.keys()
    for key, array in back.items():
        np.testing.assert_array_equal(array, state_dict[key], strict=True)
        assert array.flags.c_contiguous


def test_layouts_by_hand():
    state_dict = state_dict_of("mobilenetv2_050")
    params = load("mobilenetv2_050", state_dict)["params"]
    stem, depthwise = state_dict["conv_stem.weight"], state_dict["blocks.0.0.conv_dw.weight"]
    assert (stem.shape, depthwise.shape) == ((16, 3, 3, 3), (16, 1, 3, 3))
    # Output channel 5 and input channel 2, row 0 and column 1 of the window.
    assert params["stem_conv"]["kernel"][0, 1, 2, 5] == stem[5, 2, 0, 1]
    block = params["stage1_block1"]
    assert block["depthwise_conv"]["kernel"][0, 1, 0, 5] == depthwise[5, 0, 0, 1]
    assert params["head"]["kernel"][7, 4] == state_dict["classifier.weight"][4, 7]
    assert params["head"]["bias"][4] == state_dict["classifier.bias"][4]
    assert block["project_norm"]["scale"][3] == state_dict["blocks.0.0.bn2.weight"][3]


def test_statistics_and_the_learned_slope():
    state_dict = state_dict_of("resnetv2_50d_evos")
    variables = load("resnetv2_50d_evos", state_dict)
    assert set(variables) == {"params"}
    slope = variables["params"]["stem_norm1"]["v"]
    np.testing.assert_array_equal(slope, state_dict["stem.norm1.v"])

    state_dict = state_dict_of("resnet50")
    stats = load("resnet50", state_dict)["batch_stats"]
    np.testing.assert_array_equal(stats["stem_norm"]["mean"], state_dict["bn1.running_mean"])
    np.testing.assert_array_equal(stats["stem_norm"]["var"], state_dict["bn1.running_var"])


def test_squeeze_excite_and_a_convolutional_head_are_dense_here():
    state_dict = state_dict_of("efficientnet_b0")
    gate = load("efficientnet_b0", state_dict)["params"]["stage1_block1"]["squeeze_excite"]
    kernel = state_dict["blocks.0.0.se.conv_reduce.weight"]
    assert kernel.shape == (8, 32, 1, 1)
    np.testing.assert_array_equal(gate["reduce"]["kernel"], kernel[:, :, 0, 0].T)

    state_dict = state_dict_of("resnetv2_50")
    kernel = state_dict["head.fc.weight"]
    assert kernel.ndim == 4
    expected = load("resnetv2_50", state_dict)["params"]["head"]["kernel"]
    np.testing.assert_array_equal(expected, kernel[:, :, 0, 0].T)
    # A dense classifier, as timm's other families have it, is the same thing.
    flat = load("resnetv2_50", state_dict | {"head.fc.weight": kernel[:, :, 0, 0]})
    np.testing.assert_array_equal(flat["params"]["head"]["kernel"], expected)


def test_parameters_of_one_value_per_channel_in_four_axes():
    state_dict = state_dict_of("resnetv2_50d_evos")
    older = {
        key: array.reshape(1, -1, 1, 1) if ".norm" in key else array
        for key, array in state_dict.items()
    }
    variables = load("resnetv2_50d_evos", older)
    jax.tree.map(np.testing.assert_array_equal, variables, load("resnetv2_50d_evos", state_dict))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_become_float32(dtype):
    state_dict = state_dict_of("resnetv2_50d_evos")
    kernel = load(
        "resnetv2_50d_evos", {key: array.astype(dtype) for key, array in state_dict.items()}
    )["params"]["stem_conv1"]["kernel"]
    assert kernel.dtype == np.float32
    expected = state_dict["stem.conv1.weight"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(kernel, expected.transpose(2, 3, 1, 0))


def test_counters_are_accepted_and_come_back_as_zeros():
    state_dict = state_dict_of("resnet50")
    counters = {key: np.int64(7) for key in state_dict if key.endswith("num_batches_tracked")}
    assert len(counters) == 1 + 2 * 4
    back = to_timm_state_dict(load("resnet50", state_dict | counters), "resnet50", **SMALL)
    assert {key: int(back[key]) for key in counters} == dict.fromkeys(counters, 0)
    without = {key: array for key, array in state_dict.items() if key not in counters}
    assert to_timm_state_dict(load("resnet50", without), "resnet50", **SMALL).keys() == back.keys()


def test_faults_are_named_and_counted():
    state_dict = state_dict_of("resnet50")
    del state_dict["layer2.0.conv2.weight"]
    state_dict["layer1.0.bn1.weight"] = np.zeros(5, np.float32)
    state_dict["layer1.0.conv1.weight"] = state_dict["layer1.0.conv1.weight"].astype(np.int8)
    state_dict["aux.weight"] = np.zeros(1, np.float32)
    state_dict["conv1.num_batches_tracked"] = np.int64(0)  # of a convolution
    with pytest.raises(UserError) as error:
        load("resnet50", state_dict)
    assert str(error.value).splitlines() == [
        "the tensors are not those of timm's resnet50:",
        "  1 missing: layer2.0.conv2.weight",
        "  2 not of this network: aux.weight, conv1.num_batches_tracked",
        "  1 of another shape: layer1.0.bn1.weight 5, not 4",
        "  1 not floating-point: layer1.0.conv1.weight int8",
        "Name the network that they were saved from.",
    ]


def test_many_faults_are_shortened():
    given, wanted = state_dict_of("resnet50"), timm_tensors("resnetv2_50", **SMALL)
    with pytest.raises(UserError) as error:
        load("resnetv2_50", given)
    _, missing, strange, _ = str(error.value).splitlines()
    number = len(wanted.keys() - given.keys())
    assert number > 30
    assert missing.startswith(f"  {number} missing: ")
    assert missing.endswith(f" and {number - 5} more")
    assert strange.count(",") == 4


@pytest.mark.parametrize("shape", [(4, 4, 3, 7), (4, 3, 7), (588,)])
def test_a_kernel_must_have_its_shape(shape):
    state_dict = state_dict_of("resnet50") | {"conv1.weight": np.zeros(shape, np.float32)}
    text = "x".join(map(str, shape))
    with pytest.raises(UserError, match=f"conv1.weight {text}, not 4x"):
        load("resnet50", state_dict)


def test_variables_of_another_network_do_not_leave():
    variables = load("resnet50", state_dict_of("resnet50"))
    with pytest.raises(UserError, match=r"variables are not those of timm's resnetv2_50:\n.*miss"):
        to_timm_state_dict(variables, "resnetv2_50", **SMALL)
    stem = variables["params"].pop("stem_conv")
    with pytest.raises(UserError, match="1 missing: params/stem_conv/kernel"):
        to_timm_state_dict(variables, "resnet50", **SMALL)
    variables["params"]["stem_conv"] = {"kernel": stem["kernel"][:5]}
    with pytest.raises(UserError, match="params/stem_conv/kernel 5x7x3x4, not 7x7x3x4"):
        to_timm_state_dict(variables, "resnet50", **SMALL)
