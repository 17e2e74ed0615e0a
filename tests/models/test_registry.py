"""Names, fields and refusals of `create_model`."""

import jax
import jax.numpy as jnp
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.layers import EvoNormB0, EvoNormS0
from evonorm_jax.models import (
    CifarResNet,
    EfficientNet,
    MnasNetB1,
    MobileNetV2,
    ResNet,
    ResNetV1,
    create_model,
    model_names,
    native_image_size,
)
from evonorm_jax.norm_act import norm_act


def test_names():
    assert model_names() == (
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"),
        *("resnet18_v1", "resnet34_v1", "resnet50_v1", "resnet101_v1", "resnet152_v1"),
        *("cifar_resnet20", "cifar_resnet32", "cifar_resnet56", "cifar_resnet110"),
        *("mobilenet_v2", "mnasnet_b1"),
        *(f"efficientnet_b{number}" for number in range(8)),
        *("resnet50_cifar", "mobilenet_v2_cifar", "efficientnet_b0_cifar"),
    )


def test_native_image_sizes():
    sizes = {name: native_image_size(name) for name in model_names()}
    scaled = [224, 240, 260, 300, 380, 456, 528, 600]
    assert [sizes.pop(f"efficientnet_b{number}") for number in range(8)] == scaled
    assert {name for name, size in sizes.items() if size == 32} == {
        name for name in model_names() if "cifar" in name
    }
    assert set(sizes.values()) == {32, 224}
    with pytest.raises(UserError, match="unknown model: 'resnet5'"):
        native_image_size("resnet5")


@pytest.mark.parametrize(
    ("name", "network", "fields"),
    [
        ("resnet18", ResNet, {"stage_sizes": (2, 2, 2, 2), "bottleneck": False}),
        ("resnet200", ResNet, {"stage_sizes": (3, 24, 36, 3), "bottleneck": True}),
        ("resnet152_v1", ResNetV1, {"stage_sizes": (3, 8, 36, 3), "bottleneck": True}),
        ("cifar_resnet56", CifarResNet, {"depth": 56}),
        ("mobilenet_v2", MobileNetV2, {"width_multiplier": 1.0, "stem": "imagenet"}),
        ("mnasnet_b1", MnasNetB1, {"stage_sizes": (1, 3, 3, 3, 2, 4, 1)}),
        ("efficientnet_b5", EfficientNet, {"width_multiplier": 1.6, "depth_multiplier": 2.2}),
        ("resnet50_cifar", ResNet, {"num_filters": 16, "stem": "cifar", "bottleneck": True}),
        ("mobilenet_v2_cifar", MobileNetV2, {"width_multiplier": 0.5, "head_channels": 640}),
        ("efficientnet_b0_cifar", EfficientNet, {"width_multiplier": 0.5, "stem": "cifar"}),
    ],
)
def test_constructor(name, network, fields):
    model = create_model(name, 10, norm_act="bn_relu")
    assert type(model) is network
    assert {field: getattr(model, field) for field in fields} == fields


@pytest.mark.parametrize(
    "layer", ["evonorm_b0", EvoNormB0, norm_act("evonorm_b0"), norm_act(EvoNormB0)]
)
def test_layer_by_name_class_and_factory(layer):
    model = create_model(
        "cifar_resnet20", 10, norm_act=layer, norm_act_fields={"epsilon": 1e-3}, depth=8
    )
    made = model.norm_act(use_running_average=True)
    assert type(made) is EvoNormB0
    assert made.epsilon == 1e-3


def test_defaults():
    model = create_model("resnet50", 7)
    assert type(model.norm_act()) is EvoNormS0
    assert (model.num_classes, model.dtype, model.dropout_rate) == (7, jnp.float32, 0.0)
    assert (model.num_filters, model.stem) == (64, "imagenet")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, "bfloat16", jnp.dtype("bfloat16")])
def test_dtype_by_type_or_name(dtype):
    assert create_model("resnet50", 10, dtype=dtype).dtype == jnp.bfloat16


def test_model_is_a_static_argument_of_jit():
    # A network built from lists, as they come out of a config file, is hashable all the same.
    model = create_model("resnet50", 10, stage_sizes=[1, 1])
    assert hash(model) == hash(model.clone())
    assert model == model.clone()
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    initialise = jax.jit(lambda network, x: network.init(jax.random.key(0), x), static_argnums=0)
    assert set(jax.eval_shape(initialise, model, images)) == {"params"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet5"}, "unknown model: 'resnet5'. Did you mean resnet50. Known: resnet18, "),
        ({"name": "vgg"}, r"unknown model: 'vgg'\. Known: resnet18, "),
        ({"num_filter": 8}, "field of resnet50: 'num_filter'. Did you mean num_filters"),
        ({"depth": 8}, "Known: stage_sizes, bottleneck, num_filters, stem, avg_down, dropout_rate"),
        ({"name": "cifar_resnet20", "stem": "cifar"}, "Known: depth, num_filters, dropout_rate"),
        ({"num_classes": -1}, "num_classes=-1: expected an integer of at least 1, or 0 for"),
        ({"num_classes": 10.0}, "num_classes=10.0: expected an integer"),
        ({"num_classes": True}, "num_classes=True: expected an integer"),
        ({"num_filters": -1}, "num_filters=-1: expected an integer of at least 1"),
        ({"stage_sizes": ()}, "stage_sizes is empty"),
        ({"stage_sizes": 3}, "stage_sizes=3: expected the number of blocks of each stage"),
        ({"stem": {}}, "stem={}: expected one of imagenet"),
        ({"name": "resnet50_v1", "norm_act": "bn_relu", "stage_sizes": None}, "stage_sizes=None"),
        ({"name": "mobilenet_v2", "stage_sizes": "12"}, "stage_sizes='12': expected the number"),
        ({"name": "mobilenet_v2", "head_init": 3}, "head_init=3: expected an initializer"),
        ({"name": "mobilenet_v2", "min_head_channels": "x"}, "min_head_channels='x': expected an"),
        ({"stage_sizes": (2, 0)}, "every one of stage_sizes=0: expected an integer"),
        ({"stem": "mnist"}, "stem='mnist': expected one of imagenet, imagenet_deep, cifar"),
        ({"stem": "imagenet_deep", "num_filters": 9}, "num_filters=9: stem='imagenet_deep' halves"),
        ({"avg_down": 2}, "avg_down=2: expected True or False"),
        ({"dropout_rate": 1.0}, r"dropout_rate=1.0: expected a number in \[0, 1\)"),
        ({"dropout_rate": "0.1"}, "dropout_rate='0.1': expected a number"),
        ({"dtype": "int8"}, "dtype='int8': expected a floating-point dtype"),
        ({"dtype": "half precision"}, "dtype='half precision': expected a floating-point dtype"),
        ({"name": "cifar_resnet20", "depth": 21}, r"depth=21: expected 6n \+ 2"),
        ({"name": "cifar_resnet20", "depth": 2}, r"depth=2: expected 6n \+ 2"),
        ({"name": "mobilenet_v2", "width_multiplier": 0}, "width_multiplier=0: expected a number"),
        ({"name": "mobilenet_v2", "stage_sizes": (1,) * 8}, "this network has 7 stages"),
        ({"name": "mobilenet_v2", "stem": "mnist"}, "stem='mnist': expected one of imagenet, cif"),
        ({"name": "mnasnet_b1", "padding": "valid"}, "padding='valid': expected one of symmetric"),
        ({"name": "mnasnet_b1", "depth_multiplier": 2}, "field of mnasnet_b1: 'depth_multiplier'"),
        ({"name": "efficientnet_b0", "depth_multiplier": "2"}, "depth_multiplier='2': expected a"),
        (
            {"name": "efficientnet_b0", "survival_probability": 0.0},
            r"expected a number in \(0, 1\]",
        ),
        ({"norm_act": "evonorm_s9"}, "evonorm_s9"),
        ({"norm_act_fields": {"virtual_batch_size": 4}}, "virtual_batch_size"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(UserError, match=message):
        create_model(**({"name": "resnet50", "num_classes": 10} | arguments))
