"""The closed table of detectors, and what an EvoNorm detector holds."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util

from evonorm_jax.detection import MaskRCNN, create_detector, detector_names
from evonorm_jax.errors import UserError
from evonorm_jax.models.complexity import Complexity

# Parameters with GroupNorm, as many as with BatchNorm, and multiply-adds at 1024 pixels.
SIZES = {
    "maskrcnn_r18_fpn": Complexity(33_298_289, 277_336_489_984),
    "maskrcnn_r50_fpn": Complexity(46_367_089, 330_889_363_456),
    "maskrcnn_r101_fpn": Complexity(65_359_217, 408_467_210_240),
    "maskrcnn_r18_preact_fpn": Complexity(33_301_489, 277_604_925_440),
    "maskrcnn_r50_preact_fpn": Complexity(46_362_993, 330_889_363_456),
    "maskrcnn_r101_preact_fpn": Complexity(65_355_121, 408_467_210_240),
    "maskrcnn_spinenet49s": Complexity(13_946_608, 68_984_161_216),
    "maskrcnn_spinenet49": Complexity(40_753_521, 219_416_543_232),
    "maskrcnn_spinenet96": Complexity(55_185_009, 266_120_118_272),
    "maskrcnn_spinenet143": Complexity(79_169_649, 336_031_825_920),
    "maskrcnn_spinenet190": Complexity(176_198_465, 1_126_673_551_360),
}


# These are others of their family with larger numbers.
LARGER = {"maskrcnn_r101_preact_fpn", "maskrcnn_spinenet143", "maskrcnn_spinenet190"}


def test_table_is_complete():
    assert tuple(SIZES) == detector_names()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGER)) for name in SIZES]
)
def test_sizes(name):
    assert create_detector(name, norm_act="gn_relu").complexity(1024) == SIZES[name]


@pytest.mark.parametrize(
    ("name", "batch_norm", "evonorm"),
    # Millions: Table 4 of the EvoNorm paper, and the authors' zoo (tensorflow/tpu).
    [
        ("maskrcnn_r50_fpn", "46.37", "46.38"),
        ("maskrcnn_r101_fpn", "65.36", "65.38"),
        ("maskrcnn_spinenet49", "40.8", None),
        ("maskrcnn_spinenet96", "55.2", None),
        ("maskrcnn_spinenet143", "79.2", None),
    ],
)
def test_published_figures(name, batch_norm, evonorm):
    digits = len(batch_norm.split(".")[1])
    assert f"{SIZES[name].parameters / 1e6:.{digits}f}" == batch_norm
    if evonorm is not None:
        counted = sum(
            leaf.size for leaf in abstract_variables(name, "evonorm_b0")["params"].values()
        )
        assert f"{counted / 1e6:.{digits}f}" == evonorm


@pytest.mark.parametrize(
    ("name", "values_of_v"),
    [
        ("maskrcnn_r50_fpn", 12_224),
        ("maskrcnn_r101_fpn", 20_928),
        ("maskrcnn_spinenet49", 16_704),
        ("maskrcnn_spinenet96", 22_720),
        ("maskrcnn_spinenet143", 33_472),
    ],
)
def test_evonorm_has_one_vector_more_at_every_activation(name, values_of_v):
    counted = sum(leaf.size for leaf in abstract_variables(name, "evonorm_b0")["params"].values())
    assert counted - SIZES[name].parameters == values_of_v


@pytest.mark.parametrize(
    ("layer", "parameters"), [("bn_relu", 46_367_089), ("evonorm_s0", 46_379_313)]
)
def test_batch_norm_counts_like_group_norm_and_s0_like_b0(layer, parameters):
    variables = abstract_variables("maskrcnn_r50_fpn", layer)
    assert sum(leaf.size for leaf in variables["params"].values()) == parameters


def test_mask_rcnn_of_resnet50_by_hand():
    def conv(size, c_in, c_out):
        return size * size * c_in * c_out + c_out  # with its bias

    backbone = 25_557_032 - (2048 * 1000 + 1000)  # torchvision's resnet50 without its head
    pyramid = sum(conv(1, channels, 256) + conv(3, 256, 256) for channels in (256, 512, 1024, 2048))
    pyramid += conv(3, 256, 256)  # level 6
    proposals = conv(3, 256, 256) + conv(1, 256, 3) + conv(1, 256, 12)
    boxes = 4 * conv(3, 256, 256) + conv(7, 256, 1024) + conv(1, 1024, 91) + conv(1, 1024, 364)
    masks = 4 * conv(3, 256, 256) + conv(2, 256, 256) + conv(1, 256, 91)
    norms = 2 * 256 * (5 + 5 + 4 + 4 + 1) + 2 * 1024
    total = backbone + pyramid + proposals + boxes + masks + norms
    assert total == SIZES["maskrcnn_r50_fpn"].parameters == 46_367_089


@functools.cache
def abstract_variables(name, layer):
    detector = create_detector(name, norm_act=layer)
    images = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    variables = jax.eval_shape(detector.init, jax.random.key(0), images)
    return {
        collection: traverse_util.flatten_dict(tree, sep="/")
        for collection, tree in variables.items()
    }


# Where no activation follows: the end of a residual branch, its shortcut, a level of the pyramid,
# a parent of a SpineNet block.
LINEAR = {
    "maskrcnn_r50_fpn": ("norm3", "shortcut_norm"),
    "maskrcnn_r18_fpn": ("block1/norm2", "block2/norm2", "shortcut_norm"),
    "maskrcnn_r50_preact_fpn": (),
}


@pytest.mark.parametrize("name", LINEAR)
def test_v_where_an_activation_follows_and_nowhere_else(name):
    variables = abstract_variables(name, "evonorm_b0")
    layers = {path.rsplit("/", 1)[0] for path in variables["params"] if "norm" in path}
    nonlinear = {path[: -len("/v")] for path in variables["params"] if path.endswith("/v")}
    linear = {
        layer
        for layer in layers
        if layer.startswith("fpn/")
        or (layer.startswith("backbone/") and layer.endswith(LINEAR[name]))
    }
    assert nonlinear == layers - linear
    # No BatchNorm hides in the linear places: a variance is tracked where `v` is, a mean nowhere.
    assert set(variables["batch_stats"]) == {f"{layer}/var" for layer in nonlinear}
    assert {leaf.dtype for leaf in variables["params"].values()} == {jnp.dtype("float32")}


def test_layers_of_spinenet():
    variables = abstract_variables("maskrcnn_spinenet49", "evonorm_s0")
    assert set(variables) == {"params"}
    assert not any(path.startswith("fpn/") for path in variables["params"])
    linear = {
        path.rsplit("/", 2)[1]
        for path in variables["params"]
        if path.endswith("/scale") and path.replace("/scale", "/v") not in variables["params"]
    }
    assert linear == {"expand_norm", "norm2", "norm3", "shortcut_norm"}


def test_training_and_detection_have_the_same_variables():
    detector = create_detector("maskrcnn_r18_fpn", norm_act="evonorm_b0")
    counted = sum(
        leaf.size
        for leaf in abstract_variables("maskrcnn_r18_fpn", "evonorm_b0")["params"].values()
    )
    assert detector.num_parameters(image_size=64) == counted
    assert detector.num_parameters(image_size=(64, 128)) == counted


def test_defaults_and_fields():
    detector = create_detector("maskrcnn_r50_fpn")
    assert type(detector) is MaskRCNN
    assert detector.num_classes == 91
    assert type(detector.norm_act()).__name__ == "EvoNormS0"
    small = create_detector(
        "maskrcnn_spinenet96",
        num_classes=2,
        norm_act="gn_relu",
        norm_act_fields={"group_size": 8},
        dtype="bfloat16",
        backbone_fields={"num_repeats": 1},
        box_samples=32,
        mask_samples=8,
    )
    assert (small.min_level, small.max_level, small.anchor_scale, small.box_samples) == (
        3,
        7,
        3,
        32,
    )
    assert small.norm_act().group_size == small.backbone.norm_act().group_size == 8
    assert small.dtype == small.backbone.dtype == jnp.bfloat16
    assert small.backbone.num_repeats == 1
    assert hash(small) == hash(small.clone())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "maskrcnn_r50"}, "unknown detector: 'maskrcnn_r50'. Did you mean maskrcnn_r50_f"),
        ({"num_class": 2}, "field of maskrcnn_r50_fpn: 'num_class'"),
        ({"backbone": None}, "field of maskrcnn_r50_fpn: 'backbone'"),
        ({"backbone_fields": {"depth": 3}}, "field of the backbone of maskrcnn_r50_fpn: 'depth'"),
        ({"backbone_fields": {"residual_norm": "norm"}}, "EvoNormS0 fuses normalisation"),
        ({"backbone_fields": {"residual_norm": "none"}}, "residual_norm='none': expected one of"),
        ({"norm_act": "frn"}, "no activation that can stand alone"),
        ({"num_classes": 1}, "num_classes=1: expected at least 2"),
        ({"num_classes": "91"}, "num_classes='91': expected an integer"),
        ({"mask_samples": 600}, "mask_samples=600: expected at most box_samples, 512"),
        ({"min_level": 7}, "min_level=7: expected at most max_level, 6"),
        ({"rpn_samples": 1}, "rpn_samples=1: expected at least 2"),
        ({"max_detections": 0}, "max_detections=0: expected an integer of at least 1"),
        ({"anchor_scale": 0}, "anchor_scale=0: expected a number above 0"),
        ({"nms_iou": 1.5}, "nms_iou=1.5: expected a number from 0 to 1"),
        ({"dtype": "int8"}, "dtype='int8'"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(UserError, match=message):
        create_detector(**({"name": "maskrcnn_r50_fpn"} | arguments))


@pytest.mark.parametrize(
    ("name", "fields", "shape", "message"),
    [
        ("maskrcnn_r18_fpn", {}, (1, 96, 64, 3), r"96 x 64 pixels: .* multiples of 64; pad with"),
        ("maskrcnn_spinenet49", {}, (1, 64, 128, 3), r"64 x 128 pixels: .* multiples of 128"),
        ("maskrcnn_r18_fpn", {}, (64, 64, 3), r"expected \[N, H, W, C\]"),
        (
            "maskrcnn_spinenet49",
            {"max_level": 8},
            (1, 256, 256, 3),
            r"has levels \[3, 4, 5, 6, 7\]",
        ),
        ("maskrcnn_r18_fpn", {"min_level": 1}, (1, 64, 64, 3), r"min_level=1, .* levels \[2, 3, 4"),
    ],
)
def test_images_that_do_not_fit(name, fields, shape, message):
    detector = create_detector(name, **fields)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(detector.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
