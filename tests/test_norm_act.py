"""Names, classes and partials to factories; the closed list; what importing costs."""

import dataclasses
import functools
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import evonorm_jax
from evonorm_jax import EvoNormB0, EvoNormS0, layers, norm_act, norm_act_names
from evonorm_jax.errors import UserError
from evonorm_jax.layers import BatchDependentLayer, FusedLayer, GroupLayer, NormActLayer
from evonorm_jax.norm_act import accepts_field, activation_of, fuses_activation

NAMES = [
    "evonorm_b0",
    "evonorm_b1",
    "evonorm_b2",
    "evonorm_s0",
    "evonorm_s1",
    "evonorm_s2",
    "bn_relu",
    "bn_relu6",
    "bn_silu",
    "bn_swish",
    "gn_relu",
    "gn_silu",
    "gn_swish",
    "ln_relu",
    "in_relu",
    "pixel_norm_relu",
    "frn",
    "batch_instance_norm_relu",
    "switchable_norm_relu",
    "random",
    "random_rej",
    "rs_rej",
]
FUSED = {name for name in NAMES if name.startswith("evonorm")} | {"random", "random_rej", "rs_rej"}
COMMON_FIELDS = {
    "nonlinearity": True,
    "epsilon": 1e-5,
    "dtype": None,
    "param_dtype": jnp.float32,
    "scale_init": nn.initializers.ones,
    "bias_init": nn.initializers.zeros,
    "use_running_average": None,
}
BATCH_FIELDS = {
    "momentum": 0.9,
    "virtual_batch_size": None,
    "axis_name": None,
    "axis_index_groups": None,
}


def test_the_list_is_closed():
    assert norm_act_names() == tuple(NAMES)
    exported = {getattr(layers, name) for name in layers.__all__}
    concrete = {
        value for value in exported if isinstance(value, type) and issubclass(value, NormActLayer)
    } - {NormActLayer, FusedLayer, BatchDependentLayer, GroupLayer}
    assert {norm_act(name).func for name in NAMES} == concrete


@pytest.mark.parametrize("name", NAMES)
def test_fields_and_defaults(name):
    cls = norm_act(name).func
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    expected = dict(COMMON_FIELDS)
    if issubclass(cls, BatchDependentLayer):
        expected |= BATCH_FIELDS
    if issubclass(cls, GroupLayer):
        expected |= {"num_groups": None, "group_size": None}
    if issubclass(cls, FusedLayer):
        expected["implementation"] = None
    if name in ("evonorm_b0", "evonorm_s0", "bn_swish", "gn_swish"):
        expected["v_init"] = nn.initializers.ones
    extra = {"frn": "threshold_init", "batch_instance_norm_relu": "gate_init"}
    extra["switchable_norm_relu"] = "mixture_init"
    known = set(expected) | ({extra[name]} if name in extra else set())
    assert set(defaults) - {"parent", "name"} == known
    assert {key: defaults[key] for key in expected} == expected


@pytest.mark.parametrize("name", NAMES)
def test_fuses_activation(name):
    assert fuses_activation(name) == (name in FUSED)


def test_name_class_and_partial_give_the_same_layer():
    expected = EvoNormS0(num_groups=4, epsilon=1e-3)
    for layer in ("evonorm_s0", EvoNormS0, functools.partial(EvoNormS0, epsilon=7.0)):
        assert norm_act(layer, num_groups=4, epsilon=1e-3)() == expected
    assert norm_act(functools.partial(EvoNormS0, num_groups=4), epsilon=1e-3)() == expected
    assert norm_act(norm_act("evonorm_s0", num_groups=4), epsilon=1e-3)() == expected


def test_a_layer_of_the_users_own():
    class Half(nn.Module):
        factor: float = 0.5

        def __call__(self, x, use_running_average=None):
            return self.factor * x

    factory = norm_act(Half, factor=0.25)
    assert factory().apply({}, jnp.ones((1, 1, 1, 1)), True) == 0.25
    assert accepts_field(factory, "factor")
    assert not accepts_field(factory, "nonlinearity")
    assert not fuses_activation(factory)


@pytest.mark.parametrize("function", [norm_act, fuses_activation, activation_of])
def test_unknown_names(function):
    with pytest.raises(UserError, match=r"unknown layer 'evonorm_so'\. Did you mean") as raised:
        function("evonorm_so")
    for name in NAMES:
        assert name in str(raised.value)
    with pytest.raises(UserError, match=r"unknown layer 'xyz'\. Known: evonorm_b0, "):
        function("xyz")


def test_unknown_fields():
    with pytest.raises(UserError, match="unknown field of EvoNormS0 'groups'") as raised:
        norm_act("evonorm_s0", groups=4)
    assert "Did you mean num_groups?" in str(raised.value)
    assert "num_groups, group_size, implementation, v_init" in str(raised.value)
    with pytest.raises(UserError, match="unknown field of EvoNormS0 'momentum'"):
        norm_act(functools.partial(EvoNormS0, momentum=0.9))
    for field in ("name", "parent"):
        with pytest.raises(UserError, match=f"unknown field of EvoNormB0 '{field}'"):
            norm_act(EvoNormB0, **{field: None})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scale_init", 3, "scale_init=3 of EvoNormS0: expected an initializer, a function"),
        ("v_init", None, "v_init=None of EvoNormS0: expected an initializer"),
        ("param_dtype", "x", "param_dtype='x' of EvoNormS0: expected a floating-point dtype"),
        ("param_dtype", (0,), "expected a floating-point dtype"),
        ("dtype", "int8", "dtype='int8' of EvoNormS0: expected a floating-point dtype"),
        ("epsilon", "0", "epsilon='0' of EvoNormS0: expected float"),
    ],
)
def test_values_of_another_type(field, value, message):
    with pytest.raises(UserError) as raised:
        norm_act("evonorm_s0", **{field: value})
    assert message in str(raised.value)


@pytest.mark.parametrize("layer", [None, 3, EvoNormS0(), jax.nn.relu, functools.partial(max), dict])
def test_what_is_no_layer(layer):
    with pytest.raises(UserError, match="given by name, as a"):
        norm_act(layer)


def test_fields_are_bound_by_name():
    with pytest.raises(UserError, match="by position"):
        norm_act(functools.partial(EvoNormS0, True))


@pytest.mark.parametrize("name", NAMES)
def test_accepts_field(name):
    for factory in (name, norm_act(name), norm_act(name).func):
        batch_dependent = issubclass(norm_act(name).func, BatchDependentLayer)
        assert accepts_field(factory, "virtual_batch_size") == batch_dependent
        assert accepts_field(factory, "use_running_average")
        assert not accepts_field(factory, "name")


def test_activation_of():
    x = jnp.array([-1.0, 0.5])
    assert (activation_of("in_relu")(x) == jax.nn.relu(x)).all()
    assert (activation_of(norm_act("gn_silu"))(x) == jax.nn.silu(x)).all()
    for name in ("evonorm_s0", "bn_swish", "frn", "random"):
        with pytest.raises(UserError, match="has no activation that can stand alone"):
            activation_of(name)


def test_a_network_holds_a_factory():
    """One bound factory for the whole network, whatever the layer."""

    class Network(nn.Module):
        norm_act: functools.partial

        @nn.compact
        def __call__(self, x, train):
            norm_act = functools.partial(
                self.norm_act, use_running_average=not train, dtype=x.dtype
            )
            x = norm_act(name="first")(nn.Dense(8, name="dense")(x))
            return norm_act(nonlinearity=False, scale_init=nn.initializers.zeros, name="last")(x)

    x = jnp.ones((2, 2, 2, 3))
    for name in ("evonorm_b0", "evonorm_s0", "gn_relu"):
        model = Network(norm_act(name))
        variables = model.init(jax.random.key(0), x, train=True)
        y, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
        assert (y == 0).all()


def test_public_names():
    assert evonorm_jax.__version__ == "0.1.0"
    from evonorm_jax.models import create_model

    assert evonorm_jax.create_model is create_model
    assert dir(evonorm_jax) == sorted(evonorm_jax.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = evonorm_jax.no_such_name


def test_importing_the_layers_imports_jax_and_flax_alone():
    """Compared with an interpreter that has imported those two, package by package."""
    program = (
        "import sys, flax.linen, jax.numpy\n"
        "before = {name.partition('.')[0] for name in sys.modules}\n"
        "import evonorm_jax, evonorm_jax.layers, evonorm_jax.graphs.layer\n"
        "after = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(after - before), 'evonorm_jax.models' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['evonorm_jax'] False\n"
