"""The table of published weights: complete, in timm's terms, and what it refuses."""

import re

import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.interop import PRETRAINED, TIMM_MODELS, find_weights
from evonorm_jax.interop.pretrained import name_of_file, weights_of

# Networks for which timm 1.0.31 has code but no weights (with a classifier and a centre crop).
WITHOUT = {"resnetv2_50d", "efficientnet_b6", "efficientnet_b7"}


def test_every_network_has_weights_but_those_that_timm_left_untrained():
    assert {name.partition(".")[0] for name in PRETRAINED} == set(TIMM_MODELS) - WITHOUT


@pytest.mark.parametrize("weights", PRETRAINED.values(), ids=lambda weights: weights.name)
def test_a_row_is_plausible(weights):
    assert re.fullmatch(r"\w+\.\w+", weights.name)
    # Sizes in the table grow from training to tests, and a crop is a share of the image.
    assert 160 <= weights.train_size <= weights.test_size <= 600
    assert 0.8 < weights.train_crop <= 1
    assert 0.8 < weights.test_crop <= 1
    assert weights.test_size <= weights.test_resize_size <= weights.test_size / 0.8
    assert weights.interpolation in ("bicubic", "bilinear")
    assert weights.licence in ("apache-2.0", "bsd-3-clause", "cc-by-nc-4.0")


def test_resize_size_by_hand():
    # 224 / 0.875 = 256; 600 / 0.949 = 632.2, which timm rounds down.
    assert find_weights("resnet50.tv_in1k").test_resize_size == 256
    assert find_weights("tf_efficientnet_b7.aa_in1k").test_resize_size == 632


def test_mean_and_std_are_in_units_of_bytes():
    weights = find_weights("mnasnet_100.rmsp_in1k")
    assert weights.mean == pytest.approx([255 * m for m in (0.485, 0.456, 0.406)])
    assert weights.std == pytest.approx([255 * s for s in (0.229, 0.224, 0.225)])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", r"no weights 'resnet50'\. Of this network: resnet50\.a1_in1k, resnet50\.a1h"),
        ("resnet50.a1_in1", r"Did you mean resnet50\.a1_in1k\?"),
        ("efficientnet_b7.ra_in1k", "timm has published no weights of efficientnet_b7"),
        ("vit_base_patch16_224.augreg_in1k", "has no counterpart here"),
    ],
)
def test_unknown_weights_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        find_weights(name)


def test_a_name_without_a_tag_stands_for_an_only_file():
    assert weights_of("resnetv2_50d_evos").name == "resnetv2_50d_evos.ah_in1k"
    assert weights_of("resnet50") is None
    assert weights_of("resnet50.of_my_own") is None
    assert weights_of("") is None


def test_a_file_bears_the_name_of_its_weights():
    assert name_of_file("a/b/resnet18.tv_in1k.safetensors") == "resnet18.tv_in1k"
    assert name_of_file("resnet18.safetensors") == name_of_file("runs/resnet18") == ""
