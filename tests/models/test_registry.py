"""Names, fields and refusals of `create_model`."""

import jax
import jax.numpy as jnp
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.layers import EvoNormB0, EvoNormS0, norm_act
from evonorm_jax.models import CifarResNet, ResNet, ResNetV1, create_model, model_names


def test_names():
    assert model_names() == (
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"),
        *("resnet18_v1", "resnet34_v1", "resnet50_v1", "resnet101_v1", "resnet152_v1"),
        *("cifar_resnet20", "cifar_resnet32", "cifar_resnet56", "cifar_resnet110"),
    )


@pytest.mark.parametrize(
    ("name", "network", "fields"),
    [
        ("resnet18", ResNet, {"stage_sizes": (2, 2, 2, 2), "bottleneck": False}),
        ("resnet200", ResNet, {"stage_sizes": (3, 24, 36, 3), "bottleneck": True}),
        ("resnet152_v1", ResNetV1, {"stage_sizes": (3, 8, 36, 3), "bottleneck": True}),
        ("cifar_resnet56", CifarResNet, {"depth": 56}),
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
        ({"depth": 8}, "Known: stage_sizes, bottleneck, num_filters, stem, dropout_rate"),
        ({"name": "cifar_resnet20", "stem": "cifar"}, "Known: depth, num_filters, dropout_rate"),
        ({"num_classes": 0}, "num_classes=0: expected an integer of at least 1"),
        ({"num_classes": 10.0}, "num_classes=10.0: expected an integer"),
        ({"num_classes": True}, "num_classes=True: expected an integer"),
        ({"num_filters": -1}, "num_filters=-1: expected an integer of at least 1"),
        ({"stage_sizes": ()}, "stage_sizes is empty"),
        ({"stage_sizes": (2, 0)}, "every one of stage_sizes=0: expected an integer"),
        ({"stem": "mnist"}, "stem='mnist': expected one of imagenet, cifar"),
        ({"dropout_rate": 1.0}, r"dropout_rate=1.0: expected a number in \[0, 1\)"),
        ({"dropout_rate": "0.1"}, "dropout_rate='0.1': expected a number"),
        ({"dtype": "int8"}, "dtype='int8': expected a floating-point dtype"),
        ({"dtype": "half precision"}, "dtype='half precision': expected a floating-point dtype"),
        ({"name": "cifar_resnet20", "depth": 21}, r"depth=21: expected 6n \+ 2"),
        ({"name": "cifar_resnet20", "depth": 2}, r"depth=2: expected 6n \+ 2"),
        ({"norm_act": "evonorm_s9"}, "evonorm_s9"),
        ({"norm_act_fields": {"virtual_batch_size": 4}}, "virtual_batch_size"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(UserError, match=message):
        create_model(**({"name": "resnet50", "num_classes": 10} | arguments))
