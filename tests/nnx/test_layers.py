"""The NNX modules against the Linen modules, bit for bit, and what is their own."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import evonorm_jax
import evonorm_jax.nnx as evonorm_nnx
from evonorm_jax import norm_act_names
from evonorm_jax.errors import UserError
from evonorm_jax.layers import BatchDependentLayer
from tests.layers.deviations import make_case

pytestmark = pytest.mark.usefixtures("quick_compilation")

#: A graph with running statistics and groups.
GRAPH = (
    "graph:n4 = std_bwh(x); n5 = rms_whcg(x); n6 = max(n4, n5); n7 = mul(x, v1); n8 = div(n7, n6)"
)
CHANNELS = 6


def make_layer(name, case=None, **fields):
    """The NNX module, with the parameters and statistics of the case."""
    layer = evonorm_nnx.norm_act(name, **fields)(CHANNELS, rngs=nnx.Rngs(0))
    if case is not None:
        variables = {"params": case.params, "batch_stats": case.running}
        evonorm_nnx.load_linen_variables(layer, variables)
    return layer


def differentiated(apply):
    """A function of a case: output, gradients by x and the parameters, and updated statistics."""

    def run(case):
        def call(params, x):
            return apply({"params": params, "batch_stats": case.running}, x)

        y, vjp, updates = jax.vjp(call, case.params, case.x, has_aux=True)
        return y, vjp(case.cotangent), updates

    return run


def run_nnx(layer, train=True):
    layer.train() if train else layer.eval()

    def apply(variables, x):
        copy = nnx.clone(layer)
        evonorm_nnx.load_linen_variables(copy, variables)
        return copy(x), evonorm_nnx.to_linen_variables(copy).get("batch_stats", {})

    return differentiated(apply)


def run_linen(layer, train=True):
    def apply(variables, x):
        y, updates = layer.apply(variables, x, not train, mutable=["batch_stats"])
        return y, updates.get("batch_stats", {})

    return differentiated(apply)


def assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("name", norm_act_names())
def test_the_program_is_that_of_linen(name):
    """Operation by operation, with gradients and updates: so the results are equal bit for bit."""
    nnx_layer, linen_layer = make_layer(name, make_case(name)), evonorm_jax.norm_act(name)()
    for dtype, train in (("float32", True), ("bfloat16", True), ("float32", False)):
        case = make_case(name, dtype)
        program = jax.make_jaxpr(run_nnx(nnx_layer, train))(case)
        expected = jax.make_jaxpr(run_linen(linen_layer, train))(case)
        assert str(program) == str(expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["evonorm_b0", "evonorm_s0"])
def test_values_and_gradients_equal_linen(name, dtype):
    case = make_case(name, dtype)
    nnx_layer, linen_layer = make_layer(name, case), evonorm_jax.norm_act(name)()
    for train in (True, False):
        assert_equal(run_nnx(nnx_layer, train)(case), run_linen(linen_layer, train)(case))
    _, _, updates = run_nnx(nnx_layer, train=False)(case)
    assert_equal(updates, case.running)


def test_the_program_of_a_graph_is_that_of_linen():
    case = make_case("evonorm_s0")
    linen = evonorm_jax.norm_act(GRAPH, num_groups=3, momentum=0.8)()
    variables = linen.init(jax.random.key(0), case.x, True)
    assert set(variables) == {"params", "batch_stats"}
    layer = make_layer(GRAPH, num_groups=3, momentum=0.8)
    case = dataclasses.replace(
        case,
        params=variables["params"],
        running={k: v + 0.5 for k, v in variables["batch_stats"].items()},
    )
    for train in (True, False):
        program = jax.make_jaxpr(run_nnx(layer, train))(case)
        assert str(program) == str(jax.make_jaxpr(run_linen(linen, train))(case))


@pytest.mark.parametrize("name", norm_act_names())
def test_parameters_are_those_of_linen(name):
    """Also without the activation, where some do not exist."""
    x = jnp.ones((1, 2, 2, CHANNELS))
    for nonlinearity in (True, False):
        layer = make_layer(name, nonlinearity=nonlinearity, param_dtype=jnp.bfloat16)
        linen = evonorm_jax.norm_act(name, nonlinearity=nonlinearity, param_dtype=jnp.bfloat16)()
        expected = jax.eval_shape(lambda linen=linen: linen.init(jax.random.key(0), x, True))
        got = evonorm_nnx.to_linen_variables(layer)
        kinds = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (got, dict(expected)))
        assert kinds[0] == kinds[1]


def test_update_by_hand():
    """One channel holding 1 and 5: variance 4, so 0.9 * 1 + 0.1 * 4 and again."""
    layer = evonorm_nnx.EvoNormB0(1, rngs=nnx.Rngs(0))
    for expected in (1.3, 1.57):
        layer(jnp.array([1.0, 5.0]).reshape(2, 1, 1, 1))
        np.testing.assert_allclose(layer.var[...], expected, rtol=1e-6)


def test_the_mode():
    """As in `flax.nnx.BatchNorm`: the call overrides the attribute that `train` and `eval` set."""
    case = make_case("evonorm_b0")
    model = nnx.Sequential(make_layer("evonorm_b0"), make_layer("evonorm_s0"))
    layer = model.layers[0]
    start = layer.var[...]
    model.eval()
    model(case.x)
    assert (layer.var[...] == start).all()
    layer(case.x, use_running_average=False)
    moved = layer.var[...]
    assert (moved != start).all()
    model.train()
    layer(case.x, use_running_average=True)
    assert (layer.var[...] == moved).all()
    nnx.view(model, use_running_average=True)(case.x)
    assert (layer.var[...] == moved).all()
    layer.set_attributes(use_running_average=None)
    with pytest.raises(UserError, match=r"EvoNormB0 does not know whether it trains: call .train"):
        layer(case.x)
    make_layer("evonorm_s0", use_running_average=None)(case.x)


def test_tables():
    """`nnx.tabulate` replaces the public methods of a module by compiled ones."""
    table = nnx.tabulate(make_layer("evonorm_b0"), jnp.ones((1, 2, 2, CHANNELS)))
    assert "EvoNormB0" in table
    assert "BatchStat" in table


def test_half_precision_output():
    case = make_case("gn_swish")
    layer = make_layer("gn_swish", dtype=jnp.bfloat16)
    assert layer(case.x).dtype == jnp.bfloat16
    assert make_layer("gn_swish")(case.x.astype(jnp.float16)).dtype == jnp.float16


@pytest.mark.parametrize("name", ["evonorm_s0", "bn_relu", "pixel_norm_relu"])
def test_without_scale_and_bias(name):
    """The layer with scale 1 and bias 0; or with those of each example, as Linen computes it."""
    case = make_case(name)
    plain = make_layer(name, use_scale=False, use_bias=False)
    assert plain.scale is None
    assert not {"scale", "bias"} & set(evonorm_nnx.to_linen_variables(plain)["params"])
    fresh = make_layer(name)
    assert_equal(plain(case.x), fresh(case.x))
    given = {"scale": 1 + 0.1 * case.x[:, 0, 0], "bias": case.x[:, 1, 1]}
    variables = evonorm_nnx.to_linen_variables(plain)
    linen = evonorm_jax.norm_act(name)()
    expected, _ = linen.apply(variables, case.x, False, mutable=["batch_stats"], **given)
    assert_equal(plain(case.x, **given), expected)
    assert_equal(fresh(case.x, **given), expected)


def test_conditional_equals_linen():
    case = make_case("evonorm_b0")
    condition = jnp.arange(15.0).reshape(3, 5) / 10
    linen = evonorm_jax.layers.ConditionalNormAct(evonorm_jax.norm_act("evonorm_b0"))
    variables = linen.init(jax.random.key(1), case.x, condition, False)
    expected, _ = linen.apply(variables, case.x, condition, False, mutable=["batch_stats"])
    layer = evonorm_nnx.ConditionalNormAct(
        CHANNELS, 5, evonorm_nnx.norm_act("evonorm_b0"), rngs=nnx.Rngs(0)
    )
    evonorm_nnx.load_linen_variables(layer, variables)
    assert_equal(layer(case.x, condition), expected)
    layer.eval()
    assert layer.norm_act.use_running_average is True


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"virtual_batch_size": 2, "axis_name": "batch"}, "give one of the two"),
        ({"axis_index_groups": ((0, 1),)}, "needs axis_name"),
        ({"momentum": 1.5}, "BatchNormReLU: momentum=1.5 must lie between 0 and 1"),
        ({"epsilon": -1e-5}, "epsilon=-1e-05 must not be negative"),
    ],
)
def test_contradictory_fields_are_refused_on_construction(fields, message):
    with pytest.raises(UserError, match=message):
        evonorm_nnx.BatchNormReLU(4, rngs=nnx.Rngs(0), **fields)


def test_groups_must_divide_the_channels_on_construction():
    assert evonorm_nnx.EvoNormS0(np.int64(8), group_size=4, rngs=nnx.Rngs(0)).scale.shape == (8,)
    for fields in ({"group_size": 3}, {"num_groups": 2, "group_size": 4}):
        with pytest.raises(UserError, match=r"must divide the 8 channels|the same thing twice"):
            evonorm_nnx.EvoNormS0(8, rngs=nnx.Rngs(0), **fields)


@pytest.mark.parametrize("num_features", [0, 2.0, "evonorm_s0", (8,)])
def test_num_features_is_a_number(num_features):
    with pytest.raises(UserError, match=r"num_features=.* must be the number of channels"):
        evonorm_nnx.EvoNormS0(num_features, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((2, 4), np.float32), r"EvoNormS0 takes images \[N, H, W, C\].*\(2, 4\)"),
        (np.ones((2, 2, 2, 4), np.uint8), "floating-point images, not uint8"),
        (np.ones((2, 2, 2, 5), np.float32), r"num_features=4 takes images with as.*\(2, 2, 2, 5\)"),
    ],
)
def test_inputs_that_are_refused(x, message):
    with pytest.raises(UserError, match=message):
        evonorm_nnx.EvoNormS0(4, rngs=nnx.Rngs(0))(x)


def test_scales_that_are_refused():
    layer = evonorm_nnx.EvoNormS0(4, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"scale is float32\[3\].*give floating-point"):
        layer(jnp.ones((2, 2, 2, 4)), scale=jnp.ones(3))


def test_arguments_are_shown():
    """`help` and notebooks show them; `num_features` alone goes by position."""
    for cls in (evonorm_nnx.EvoNormB0, evonorm_nnx.EvoNormS0):
        parameters = inspect.signature(cls).parameters
        positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert positional == ["num_features"]
        assert {"rngs", "epsilon", "v_init", "use_running_average"} <= set(parameters)
        assert ("momentum" in parameters) == issubclass(cls, BatchDependentLayer)
        assert "`v_init`" in (cls.__doc__ or "") or "v_init:" in (cls.__doc__ or "")
    with pytest.raises(TypeError):
        evonorm_nnx.EvoNormS0(8, True, rngs=nnx.Rngs(0))
