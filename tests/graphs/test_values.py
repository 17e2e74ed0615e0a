"""Every primitive by hand and against NumPy in float64; gradients by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.graphs.graph import Graph
from evonorm_jax.graphs.primitives import PRIMITIVES
from evonorm_jax.graphs.values import evaluate as evaluate_graph
from evonorm_jax.graphs.values import evaluate_numpy
from evonorm_jax.search.engine.probes import NUM_GROUPS, make_probe
from evonorm_jax.search.evolution.space import random_graph
from tests.layers import oracle

EPS = 1e-5
POINTS = np.array([-2.0, -0.25, 0.5, 3.0])
OTHERS = np.array([0.5, -4.0, 0.5, 2.0])
BY_HAND = {
    "add": [-1.5, -4.25, 1.0, 5.0],
    "mul": [-1.0, 1.0, 0.25, 6.0],
    "div": [-4.0, 0.0625, 1.0, 1.5],
    "max": [0.5, -0.25, 0.5, 3.0],
    "neg": [2.0, 0.25, -0.5, -3.0],
    "sigmoid": [0.11920292202, 0.43782349911, 0.62245933120, 0.95257412682],
    "tanh": [-0.96402758008, -0.24491866240, 0.46211715726, 0.99505475369],
    "exp": [0.13533528324, 0.77880078307, 1.64872127070, 20.0855369232],
    "log": [-0.69315218055, 1.38625436192, -0.69312718076, 1.09861562199],
    "abs": [2.0, 0.25, 0.5, 3.0],
    "square": [4.0, 0.0625, 0.25, 9.0],
    "sqrt": [-1.41421356237, -0.5, 0.70710678119, 1.73205080757],
}
AXES = {"bwh": (0, 1, 2), "whc": (1, 2, 3), "wh": (1, 2)}


def evaluate(text, x, v0=None, v1=None, num_groups=1, **options):
    graph = text if isinstance(text, Graph) else Graph.from_text(text)
    channels = np.shape(x)[-1]
    v0 = jnp.zeros(channels) if v0 is None else jnp.asarray(v0)
    v1 = jnp.ones(channels) if v1 is None else jnp.asarray(v1)
    return evaluate_graph(graph, jnp.asarray(x), v0, v1, num_groups=num_groups, **options)


def test_every_elementwise_primitive_is_here():
    assert set(BY_HAND) == {name for name, p in PRIMITIVES.items() if p.index_set is None}


@pytest.mark.parametrize("name", BY_HAND)
def test_elementwise_by_hand(name):
    # One value at a time, so that the second operand can be the vector v0.
    operands = "x, v0" if PRIMITIVES[name].arity == 2 else "x"
    with jax.enable_x64(True):
        got = [
            evaluate(f"n4 = {name}({operands})", np.full((1, 1, 1, 1), a), [b]).item()
            for a, b in zip(POINTS, OTHERS, strict=True)
        ]
    np.testing.assert_allclose(got, BY_HAND[name], rtol=1e-9)


def test_aggregations_by_hand():
    """Two examples, two pixels, two channels in one group each: the values 1, 3 and 5, 9."""
    x = jnp.array([[[[1.0, 5.0]], [[3.0, 9.0]]], [[[2.0, 2.0]], [[2.0, 2.0]]]])
    expected = {
        "mean_wh": [[2, 7], [2, 2]],
        "mean_whc": [[4.5, 4.5], [2, 2]],
        "mean_bwh": [[2, 4.5], [2, 4.5]],
        "mean_whcg": [[2, 7], [2, 2]],
        "std_wh": [[1, 2], [0, 0]],
        "std_whc": [[8.75**0.5] * 2, [0, 0]],
        "std_bwh": [[0.5**0.5, 8.25**0.5]] * 2,
        "std_whcg": [[1, 2], [0, 0]],
        "rms_wh": [[5**0.5, 53**0.5], [2, 2]],
        "rms_whc": [[29**0.5] * 2, [2, 2]],
        "rms_bwh": [[4.5**0.5, 28.5**0.5]] * 2,
        "rms_whcg": [[5**0.5, 53**0.5], [2, 2]],
    }
    assert set(expected) == {name for name, p in PRIMITIVES.items() if p.index_set}
    for name, values in expected.items():
        y = evaluate(f"n4 = {name}(x)", x, num_groups=2, epsilon=0.0)
        assert y.shape == x.shape
        for pixel in range(2):
            np.testing.assert_allclose(y[:, pixel, 0], values, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", [name for name, p in PRIMITIVES.items() if p.index_set])
def test_aggregations_against_the_oracle(name):
    """The reductions that the tests of the layers keep for themselves, epsilon inside the root."""
    moment, _, index_set = name.partition("_")
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 6)) + 0.5
    statistic = {"mean": oracle.mean, "std": oracle.variance, "rms": oracle.mean_square}[moment]
    if index_set == "whcg":
        expected = oracle.by_group(statistic, x, 3)
    else:
        expected = statistic(x, AXES[index_set])
    expected = expected if moment == "mean" else np.sqrt(expected + EPS)
    expected = np.broadcast_to(expected, x.shape)
    got = evaluate(f"n4 = {name}(x)", x, num_groups=3)
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6)
    wide, graph = np.tile(x[..., :4], 4), Graph.from_text(f"n4 = {name}(x)")
    in_numpy = evaluate_numpy(graph, wide, np.zeros(16), np.ones(16), num_groups=4)
    np.testing.assert_allclose(in_numpy, evaluate(graph, wide, num_groups=4), rtol=2e-6, atol=1e-6)


def test_numpy_and_jax_agree_on_random_graphs():
    """In float64, broadcasting of statistics included; where not finite, in the same places."""
    rng = np.random.default_rng(0)
    where = make_probe(0, (2, 3, 2))
    compared = 0
    with jax.enable_x64(True):
        for _ in range(150):
            graph = random_graph(rng)
            expected = where.evaluate(graph)
            got = np.asarray(evaluate(graph, where.x, where.v0, where.v1, num_groups=NUM_GROUPS))
            assert got.dtype == np.float64
            assert got.shape == where.x.shape
            finite = np.isfinite(expected)
            np.testing.assert_array_equal(np.isfinite(got), finite, err_msg=str(graph))
            scale = np.abs(expected[finite]).max(initial=1e-30)
            np.testing.assert_allclose(
                got[finite] / scale,
                expected[finite] / scale,
                rtol=1e-9,
                atol=1e-9,
                err_msg=str(graph),
            )
            compared += 0 in graph.effective and bool(finite.all())
    assert compared > 30


@pytest.mark.parametrize("name", PRIMITIVES)
def test_gradients_by_finite_differences(name):
    rng = np.random.default_rng(1)
    x, cotangent = rng.normal(size=(2, 2, 2, 2, 4))
    operands = "x" if PRIMITIVES[name].arity == 1 else "x, n4"
    text = f"n4 = add(v1, v0); n5 = {name}({operands})"
    v0, v1 = rng.normal(size=(2, 4))
    with jax.enable_x64(True):

        def loss(x, v0, v1):
            return jnp.vdot(jnp.asarray(cotangent), evaluate(text, x, v0, v1, num_groups=2))

        gradients = jax.grad(loss, argnums=(0, 1, 2))(x, v0, v1)
        for argument, gradient in enumerate(gradients):
            for index in np.ndindex(gradient.shape):
                step = np.zeros(gradient.shape)
                step[index] = 1e-6
                values = [x, v0, v1], [x, v0, v1]
                values[0][argument] = values[0][argument] + step
                values[1][argument] = values[1][argument] - step
                numeric = (loss(*values[0]) - loss(*values[1])) / 2e-6
                np.testing.assert_allclose(gradient[index], numeric, rtol=1e-5, atol=1e-7)


def test_the_signed_root_is_flat_at_zero():
    """sqrt(max(x, 0)) is constant for x < 0: its gradient there is 0, not inf * 0."""
    x = jnp.array([-1.0, -0.0, 0.0, 4.0]).reshape(1, 4, 1, 1)
    text = "n4 = max(x, 0); n5 = sqrt(n4)"
    y, vjp = jax.vjp(lambda x: evaluate(text, x), x)
    np.testing.assert_array_equal(y.ravel(), [0, 0, 0, 2])
    np.testing.assert_array_equal(vjp(jnp.ones_like(x))[0].ravel(), [0, 0, 0, 0.25])


def test_the_epsilon_of_the_division():
    x = jnp.array([2.0, -2.0, 0.0, 1e-30]).reshape(1, 4, 1, 1)
    y = evaluate("n4 = div(v1, x)", x, division_epsilon=0.5).ravel()
    np.testing.assert_allclose(y, [0.4, -0.4, np.inf, 2.0], rtol=1e-6)  # sign(0) = 0, as the paper
    by_default = evaluate("n4 = div(v1, x)", x[:, :2]).ravel()
    np.testing.assert_array_equal(by_default, [0.5, -0.5])  # to the last bit
    gradient = jax.grad(lambda x: evaluate("n4 = div(v1, x)", x).sum())(x[:, 3:])
    assert np.isfinite(gradient).all()


def test_statistics_of_what_is_smaller_than_the_image():
    """Moments of a vector over axes it does not have are those of its broadcast."""
    x, v1 = jnp.zeros((2, 3, 3, 4)), jnp.array([1.0, 3.0, 5.0, 9.0])
    for text, expected in [
        ("n4 = mean_whcg(v1)", [2, 2, 7, 7]),
        ("n4 = mean_whc(v1)", [4.5] * 4),
        ("n4 = mean_wh(v1)", [1, 3, 5, 9]),
        ("n4 = mean_bwh(v1)", [1, 3, 5, 9]),
        ("n4 = std_bwh(v1)", [EPS**0.5] * 4),
        ("n4 = mean_whc(v1); n5 = mean_whcg(n4)", [4.5] * 4),
        ("n4 = rms_whcg(0)", [EPS**0.5] * 4),
    ]:
        y = evaluate(text, x, v1=v1, num_groups=2)
        np.testing.assert_allclose(y, np.broadcast_to(expected, x.shape), rtol=1e-6, err_msg=text)
