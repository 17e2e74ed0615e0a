"""The tables of names: every module of a network has one place, and a few are checked by eye."""

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.interop import TIMM_MODELS, names, timm_tensors


@pytest.mark.parametrize(
    ("table", "here", "there"),
    [
        (names.RESNET_V1, "stem_norm", "bn1"),
        (names.RESNET_V1, "stage1_block1/norm3", "layer1.0.bn3"),
        (names.RESNET_V1, "stage3_block12/shortcut_norm", "layer3.11.downsample.1"),
        (names.RESNET_V1_D, "stem_conv3", "conv1.6"),
        (names.RESNET_V1_D, "stage3_block1/shortcut_norm", "layer3.0.downsample.2"),
        (names.RESNET_V2, "stem_norm2", "stem.norm2"),
        (names.RESNET_V2, "stage4_block2/conv1", "stages.3.blocks.1.conv1"),
        (names.RESNET_V2, "stage4_block1/shortcut_conv", "stages.3.blocks.0.downsample.conv"),
        (names.MOBILE, "stage1_block2/project_norm", "blocks.0.1.bn2"),
        (names.MOBILE, "stage2_block2/project_norm", "blocks.1.1.bn3"),
        (names.MOBILE, "stage1_block1/squeeze_excite/reduce", "blocks.0.0.se.conv_reduce"),
        (names.MOBILE, "stage7_block1/depthwise_conv", "blocks.6.0.conv_dw"),
        (names.MOBILE, "stage7_block1/nothing", None),
        (names.RESNET_V2, "stem_norm", None),
    ],
)
def test_to_timm(table, here, there):
    assert table.to_timm(here) == there


def test_known_tensors_of_timm():
    # Shapes that anyone can read off timm's own checkpoints.
    shapes = {name: tensor.timm_shape for name, tensor in timm_tensors("resnet50").items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["fc.weight"] == (1000, 2048)
    assert len(shapes) == 267  # 320 less 53 counters

    shapes = {n: t.timm_shape for n, t in timm_tensors("resnetv2_50d_evos", channels=1).items()}
    assert shapes["stem.conv1.weight"] == (32, 1, 3, 3)
    assert shapes["stages.0.blocks.0.norm1.v"] == (64,)
    assert shapes["head.fc.weight"] == (1000, 2048, 1, 1)

    shapes = {name: t.timm_shape for name, t in timm_tensors("efficientnet_b0", 10).items()}
    assert shapes["blocks.1.0.conv_dw.weight"] == (96, 1, 3, 3)
    assert shapes["blocks.1.0.se.conv_reduce.weight"] == (4, 96, 1, 1)
    assert shapes["classifier.weight"] == (10, 1280)


@pytest.mark.parametrize("name", ["resnet50d", "resnetv2_50d_gn", "mnasnet_100", "efficientnet_b1"])
def test_no_two_arrays_have_one_place(name):
    tensors = timm_tensors(name).values()
    assert len({tensor.path for tensor in tensors}) == len(tensors)
    assert {tensor.path[0] for tensor in tensors} <= {"params", "batch_stats"}
    # Every tensor of a layer is there, next to its scale.
    scales = sum(tensor.path[-1] == "scale" for tensor in tensors)
    variances = sum(tensor.path[-1] == "var" for tensor in tensors)
    assert variances == (0 if TIMM_MODELS[name].norm_act == "gn_relu" else scales)


def test_a_network_that_timm_does_not_have():
    with pytest.raises(UserError, match=r"/stem_norm1/\w+ has no place in timm's resnet50"):
        timm_tensors("resnet50", stem="imagenet_deep", stage_sizes=(1,))
