"""Scale and bias given to a layer instead of its parameters, for each example or for all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax import EvoNormS0, kernels, norm_act, norm_act_names
from evonorm_jax.errors import UserError
from evonorm_jax.kernels.implementations import PALLAS
from evonorm_jax.layers import ConditionalNormAct
from tests.layers import oracle
from tests.layers.deviations import Case, deviation, make_case, make_layer, run_layer, run_oracle
from tests.layers.test_oracle import GROUPS, check

pytestmark = pytest.mark.usefixtures("quick_compilation")

#: Layers that their graph equals as it stands: it ends in the same affine map.
GRAPHS = ("evonorm_b0", "evonorm_b1", "evonorm_b2", "evonorm_s0", "evonorm_s1", "evonorm_s2")
GRAPHS += ("random", "random_rej", "rs_rej")
GIVEN = ("scale", "bias")
SHAPE = (2, 2, 3, 6)


def conditional_case(name, dtype, seed):
    """A case with a scale and a bias of each example, `[N, 1, 1, C]` as the oracle takes them."""
    case = make_case(name, dtype, SHAPE, seed=seed)
    rng = np.random.default_rng(100 + seed)
    shape = (case.x.shape[0], 1, 1, case.x.shape[-1])
    for key, mean in (("scale", 1.0), ("bias", 0.0)):
        value = mean + 0.3 * rng.normal(size=shape)
        case.params[key] = jnp.asarray(value, case.params[key].dtype)
    return case


def case_with_oracle(name, dtype, train=True):
    """The first case without a kink, and what the oracle makes of it."""
    for seed in range(10):
        case = conditional_case(name, dtype, seed)
        try:
            return case, run_oracle(name, case, groups=GROUPS, train=train)
        except oracle.NearKink:
            continue
    raise AssertionError(f"{name}: ten cases out of ten lie at a kink")


def run_given(layer, case: Case, train: bool = True):
    """As `run_layer`, with scale and bias as arguments of the layer, `[N, C]`."""
    given = {key: case.params[key][:, 0, 0] for key in GIVEN}
    params = {key: value for key, value in case.params.items() if key not in GIVEN}

    def apply(params, given, x):
        variables = {"params": params, "batch_stats": case.running}
        y, updates = layer.apply(variables, x, not train, mutable=["batch_stats"], **given)
        return y, updates.get("batch_stats", {})

    y, vjp, updates = jax.vjp(apply, params, given, case.x, has_aux=True)
    by_params, by_given, by_x = vjp(case.cotangent)
    by_given = {key: value[:, None, None] for key, value in by_given.items()}
    return y, by_x, by_params | by_given, updates


def check_against_oracle(layer, case, expected, dtype, train=True):
    y, by_x, by_params = expected
    got_y, got_x, got_params, _ = run_given(layer, case, train)
    # Where x is bfloat16, a kernel for CPUs takes a gate that is off by up to 4e-5, which shows
    # where the bias cancels the rest of y, and in the sums over the map.
    check(got_y, y, dtype, 1e-6 if dtype == "float32" else 4e-5)
    check(got_x, by_x, dtype, 2e-6 if dtype == "float32" else 4e-5)
    assert got_params.keys() == by_params.keys()
    tolerance = 5e-6 if dtype == "float32" else 2e-4
    for key, reference in by_params.items():
        check(got_params[key], reference, "float32", tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", norm_act_names())
def test_values_and_gradients(name, dtype):
    case, expected = case_with_oracle(name, dtype)
    check_against_oracle(make_layer(name, GROUPS), case, expected, dtype)


@pytest.mark.parametrize("name", oracle.TRACKED)
def test_values_and_gradients_in_evaluation(name):
    case, expected = case_with_oracle(name, "float32", train=False)
    check_against_oracle(make_layer(name, GROUPS), case, expected, "float32", train=False)


@pytest.mark.parametrize("name", GRAPHS)
def test_searched_layers(name):
    case, expected = case_with_oracle(name, "float32")
    if "v" in case.params:
        case.params["v1"] = case.params.pop("v")
        expected[2]["v1"] = expected[2].pop("v")
    fields = {"num_groups": GROUPS} if name in ("evonorm_s0", "evonorm_s1", "evonorm_s2") else {}
    # The divisors of a graph have an epsilon of their own, which the layers' do not.
    layer = norm_act(f"graph:{name}", division_epsilon=0.0, **fields)()
    case = Case(case.x, case.params, {}, case.cotangent)
    got_y, got_x, got_params, _ = run_given(layer, case)
    assert deviation(got_y, expected[0])[1] < 1e-5
    assert deviation(got_x, expected[1])[1] < 1e-5
    assert got_params.keys() == expected[2].keys()
    for key, reference in expected[2].items():
        assert deviation(got_params[key], reference)[1] < 2e-5


@pytest.mark.parametrize("name", ["evonorm_s0", "evonorm_b0", "pixel_norm_relu"])
@pytest.mark.parametrize("nonlinearity", [True, False])
def test_one_row_for_each_example_equals_the_parameter(name, nonlinearity):
    case = make_case(name)
    if not nonlinearity:
        case.params.pop("v", None)
    layer = make_layer(name, GROUPS, nonlinearity=nonlinearity)
    y, *_ = run_layer(layer, case)
    n, c = case.x.shape[0], case.x.shape[-1]
    rest = {key: value for key, value in case.params.items() if key not in GIVEN}
    for shape in ((c,), (n, c)):
        given = {key: jnp.broadcast_to(case.params[key], shape) for key in GIVEN}
        got, _ = layer.apply({"params": rest}, case.x, False, mutable=["batch_stats"], **given)
        np.testing.assert_allclose(got, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", norm_act_names())
def test_the_parameters_are_not_created(name):
    x = jnp.ones((2, 2, 2, 6))
    layer = make_layer(name, GROUPS)
    params = layer.init(jax.random.key(0), x, False, scale=jnp.ones((2, 6)), bias=jnp.ones(6))
    assert set(params.get("params", {})) == set(oracle.EXTRA_PARAMS.get(name, {}))


@pytest.mark.parametrize("name", ["evonorm_s0", "gn_relu", "frn", "random_rej"])
def test_examples_stay_apart(name):
    """A permutation of the batch permutes the output of a layer without batch statistics."""
    case = conditional_case(name, jnp.float32, 0)
    order = np.array([1, 0])
    permuted = Case(
        case.x[order],
        {**case.params, **{key: case.params[key][order] for key in GIVEN}},
        {},
        case.cotangent[order],
    )
    layer = make_layer(name, GROUPS)
    y, by_x, *_ = run_given(layer, case)
    permuted_y, permuted_x, *_ = run_given(layer, permuted)
    np.testing.assert_array_equal(permuted_y, y[order])
    np.testing.assert_array_equal(permuted_x, by_x[order])


def test_virtual_batches():
    """Each virtual batch is the layer on its own examples, scale and bias included."""
    x, v, *_ = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(4, 3, 3, 6), (6,)]))
    scale, bias = (jax.random.normal(jax.random.key(i), (4, 6)) for i in (3, 4))
    y, _ = kernels.evonorm_b0(x, v, scale, bias, virtual_batch_size=2)
    parts = [
        kernels.evonorm_b0(x[i : i + 2], v, scale[i : i + 2], bias[i : i + 2])[0] for i in (0, 2)
    ]
    np.testing.assert_allclose(y, jnp.concatenate(parts), rtol=1e-5, atol=1e-6)


# The module.


@pytest.mark.parametrize("name", ["evonorm_s0", "evonorm_b0", "bn_relu", "ln_relu"])
def test_without_a_condition_the_layer_is_the_unconditional_one(name):
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 6))
    plain = make_layer(name, GROUPS, use_running_average=True)
    fields = {"num_groups": GROUPS} if name == "evonorm_s0" else {}
    layer = ConditionalNormAct(norm_act(name, **fields))
    variables = layer.init(jax.random.key(1), x, jnp.ones((3, 5)), True)
    y = layer.apply(variables, x, jnp.zeros((3, 5)), True)
    np.testing.assert_allclose(y, plain.apply(plain.init(jax.random.key(2), x), x), atol=1e-6)
    assert not jnp.allclose(layer.apply(variables, x, jnp.ones((3, 5)), True), y, atol=1e-2)


def test_scale_and_bias_by_hand():
    x = jnp.array([[[[-1.0], [1.0]]], [[[-1.0], [1.0]]]])
    layer = ConditionalNormAct(functools.partial(EvoNormS0, num_groups=1))
    params = layer.init(jax.random.key(0), x, jnp.ones((2, 2)))["params"]
    params["scale"]["kernel"] = jnp.array([[1.0], [0.0]])
    params["bias"]["kernel"] = jnp.array([[0.0], [5.0]])
    y = layer.apply({"params": params}, x, jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    # x sigma(x) is -0.269 and 0.731, over a standard deviation of 1.
    np.testing.assert_allclose(y[0].ravel(), [-0.538, 1.462], atol=1e-3)
    np.testing.assert_allclose(y[1].ravel(), [4.731, 5.731], atol=1e-3)


def test_bfloat16_maps_rounds_the_output_alone():
    x = jax.random.normal(jax.random.key(0), (2, 2, 2, 6), jnp.bfloat16)
    condition = jax.random.normal(jax.random.key(1), (2, 5), jnp.bfloat16)
    layer = ConditionalNormAct(functools.partial(EvoNormS0, num_groups=GROUPS))
    variables = layer.init(jax.random.key(2), x, condition)
    y = layer.apply(variables, x, condition)
    assert y.dtype == jnp.bfloat16
    exact = layer.apply(variables, x.astype(jnp.float32), condition.astype(jnp.float32))
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=2**-8, atol=1e-3)


# Bad input.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scale": jnp.ones((3, 6))}, r"scale is float32\[3, 6\].* shape \(6,\), or \(2, 6\)"),
        ({"scale": jnp.ones((2, 1, 1, 6))}, r"scale is float32\[2, 1, 1, 6\]"),
        ({"bias": jnp.ones((2, 5))}, r"bias is float32\[2, 5\]"),
        ({"bias": jnp.ones((6,), int)}, r"bias is int32\[6\]"),
    ],
)
def test_shapes_that_do_not_fit(given, message):
    layer = EvoNormS0(num_groups=GROUPS)
    with pytest.raises(UserError, match=message):
        layer.init(jax.random.key(0), jnp.ones((2, 2, 2, 6)), **given)


@pytest.mark.parametrize("implementation", PALLAS)
def test_hand_written_kernels_take_one_for_all(implementation):
    x = jnp.ones((2, 2, 2, 8))
    layer = EvoNormS0(num_groups=2, implementation=implementation)
    with pytest.raises(UserError, match=r"one scale and bias for all .*, not \(2, 8\)"):
        layer.init(jax.random.key(0), x, scale=jnp.ones((2, 8)))
