"""The table of twins: what they are, and what is refused."""

import jax
import jax.numpy as jnp
import pytest

from evonorm_jax import create_model
from evonorm_jax.errors import UserError
from evonorm_jax.interop import TIMM_MODELS, check_twin, create_timm_model, timm_model_names
from evonorm_jax.models import count_parameters

# Counted in timm 1.0.31.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "resnet50d": 25_576_264,
    "resnetv2_50": 25_549_352,
    "resnetv2_50d": 25_568_584,
    "resnetv2_50d_evos": 25_591_368,
    "mobilenetv2_100": 3_504_872,
    "mnasnet_100": 4_383_312,
    "efficientnet_b0": 5_288_548,
    "tf_efficientnet_b0": 5_288_548,
    "efficientnet_b5": 30_389_784,
}


def test_the_table_has_what_the_documents_promise():
    promised = {"resnet50", "resnetv2_50", "resnetv2_50d_evos", "mobilenetv2_100", "mnasnet_100"}
    assert promised | {f"efficientnet_b{i}" for i in range(6)} <= set(timm_model_names())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name):
    assert count_parameters(create_timm_model(name)) == PARAMETERS[name]


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_conventions_are_explicit(name):
    layer = create_timm_model(name, num_classes=10).norm_act()
    assert layer.epsilon == (1e-3 if name.startswith("tf_") else 1e-5)
    assert "epsilon" in TIMM_MODELS[name].norm_act_fields
    if TIMM_MODELS[name].norm_act in ("gn_relu", "evonorm_s0"):
        assert TIMM_MODELS[name].norm_act_fields["num_groups"] == 32


def test_a_tag_is_ignored_and_fields_are_passed_on():
    model = create_timm_model("efficientnet_b3.ra2_in1k", 7, dtype="bfloat16", dropout_rate=0.3)
    assert (model.num_classes, model.dtype, model.dropout_rate) == (7, jnp.bfloat16, 0.3)
    assert (model.width_multiplier, model.depth_multiplier) == (1.2, 1.4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5", r"timm's 'resnet5' has no counterpart here\. Did you mean resnet50\? Known: "),
        ("vit_base_patch16_224.augreg_in1k", r"no counterpart here\. Known: resnet18, resnet34,"),
        ("", "has no counterpart"),
    ],
)
def test_an_unknown_name_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        create_timm_model(name)


def test_check_twin_accepts_what_computes_the_same():
    check_twin(create_model("resnet50_v1", 5, norm_act="bn_relu", dropout_rate=0.5), "resnet50")
    # 32 groups are the default, and the workers of a run change no formula.
    fields = {"stem": "imagenet_deep", "avg_down": True, "dtype": jnp.bfloat16}
    check_twin(create_model("resnet50", 5, norm_act="evonorm_s0", **fields), "resnetv2_50d_evos")
    fields = {"norm_act": "bn_relu", "norm_act_fields": {"virtual_batch_size": 4}}
    check_twin(create_model("resnet50", 5, **fields), "resnetv2_50.a1h_in1k")
    small = {"stage_sizes": (1, 1), "num_filters": 8}
    check_twin(create_model("resnet50_v1", 5, norm_act="bn_relu", **small), "resnet50", **small)


@pytest.mark.parametrize(
    ("name", "fields", "timm_name", "message"),
    [
        ("resnet50", {"norm_act": "bn_relu"}, "resnet50", "network is 'ResNet', not 'ResNetV1'"),
        ("resnet50", {}, "resnetv2_50d_evos", "stem is 'imagenet', not 'imagenet_deep'"),
        (
            "resnet50_v1",
            {"norm_act": "bn_silu"},
            "resnet50",
            "norm_act is 'BatchNormSiLU', not 'BatchNormReLU'",
        ),
        (
            "efficientnet_b0",
            {"norm_act": "bn_silu", "padding": "same"},
            "tf_efficientnet_b0",
            "epsilon is 1e-05, not 0.001.*norm_act_fields {'epsilon': 0.001",
        ),
        (
            "efficientnet_b0",
            {"norm_act": "bn_silu", "norm_act_fields": {"epsilon": 1e-3}},
            "tf_efficientnet_b0",
            "padding is 'symmetric', not 'same'",
        ),
        (
            "resnet50",
            {"norm_act_fields": {"group_size": 8}, "stem": "imagenet_deep", "avg_down": True},
            "resnetv2_50d_evos",
            "group_size is 8, not None, num_groups is None, not 32",
        ),
        ("mobilenet_v2", {"norm_act": "bn_relu"}, "mobilenetv2_100", "not 'BatchNormReLU6'"),
    ],
)
def test_check_twin_refuses_what_would_load_and_compute_something_else(
    name, fields, timm_name, message
):
    with pytest.raises(UserError, match=message):
        check_twin(create_model(name, 5, **fields), timm_name)


def test_the_activation_stops_at_six():
    layer = create_timm_model("mobilenetv2_100").norm_act(use_running_average=True)
    x = jnp.array([-1.0, 2.0, 9.0]).reshape(1, 1, 3, 1)
    variables = layer.init(jax.random.key(0), x)
    y = layer.apply(variables, x * (1 + layer.epsilon) ** 0.5)
    assert y.ravel().tolist() == pytest.approx([0.0, 2.0, 6.0])
