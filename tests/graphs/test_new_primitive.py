"""A primitive is one row of one table: a toy row is computed, written, searched and trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from evonorm_jax import norm_act
from evonorm_jax.errors import UserError
from evonorm_jax.graphs import PRIMITIVES, Graph, Primitive, canonical, formula
from evonorm_jax.graphs.drawing import to_dot
from evonorm_jax.graphs.nodewise import NodewiseLayer
from evonorm_jax.graphs.values import evaluate, evaluate_numpy
from evonorm_jax.search.engine.filters import functional_hash, reject
from evonorm_jax.search.evolution.space import SearchSpace, random_graph

SOFTPLUS = Primitive(
    "softplus",
    arity=1,
    formula="ln(1 + exp(x))",
    jax_function=jax.nn.softplus,
    numpy_function=lambda x: np.logaddexp(0, x),
    latex=r"\zeta({})",
)
#: An aggregation over the batch that takes an option, so that every kind of row is tried.
SPREAD = Primitive(
    "spread_bwh",
    arity=1,
    formula="s2_{b,w,h}(x) + eps",
    jax_function=lambda x, *, epsilon, batch: batch("var", x) + epsilon,
    numpy_function=lambda x, *, epsilon, batch: batch("var", x) + epsilon,
    options=("epsilon", "batch"),
    index_set="bwh",
    statistic="var",
)
TEXT = "n4 = softplus(x); n5 = spread_bwh(n4); n6 = mul(n4, v1); n7 = div(n6, n5)"


@pytest.fixture(autouse=True)
def toy_rows(monkeypatch):
    for primitive in (SOFTPLUS, SPREAD):
        monkeypatch.setitem(PRIMITIVES, primitive.name, primitive)


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(4, 3, 3, 8)) + 0.2


def by_hand(x):
    softplus = np.log1p(np.exp(x))
    return softplus / (softplus.var(axis=(0, 1, 2)) + 1e-5 + 1e-12)


def test_its_values_are_those_of_the_row(images):
    vectors = np.zeros(8), np.ones(8)
    graph = Graph.from_text(TEXT)
    in_numpy = evaluate_numpy(graph, images, *vectors, num_groups=2)
    np.testing.assert_allclose(in_numpy, by_hand(images), rtol=1e-12)
    in_jax = evaluate(graph, jnp.float32(images), *map(jnp.float32, vectors), num_groups=2)
    np.testing.assert_allclose(in_jax, by_hand(images), rtol=1e-4)


def test_it_is_written_and_drawn():
    graph = Graph.from_text("n4 = softplus(x); n5 = neg(n4); n6 = mul(n5, v1)")
    assert formula(graph) == "v1 * (-softplus(x))"
    assert formula(graph, "unicode") == "v₁ (-softplus(x))"
    assert formula(graph, "latex") == r"v_1 \, (-\zeta(x))"
    assert formula(Graph.from_text("n4 = spread_bwh(x)"), "latex") == (
        r"\operatorname{spread\_bwh}(x)"
    )
    assert 'label="softplus(·)"' in to_dot(graph)


def test_it_is_searched():
    graph = Graph.from_text(TEXT)
    assert reject(graph) is None
    twin = Graph.from_text("n4 = softplus(x); n5 = softplus(x); n6 = add(n4, n5)")
    assert str(canonical(twin)) == "n4 = softplus(x); n5 = add(n4, n4)"
    again = Graph.from_text("n4 = softplus(x); n5 = max(n4, n4); n6 = add(n5, n4)")
    assert functional_hash(again) == functional_hash(twin) != functional_hash(graph)
    assert "softplus" in SearchSpace().primitives
    assert "spread_bwh" not in SearchSpace(batch_moments=False, whole_graph=True).primitives
    rng = np.random.default_rng(0)
    drawn = {node.primitive for _ in range(50) for node in random_graph(rng).nodes}
    assert {"softplus", "spread_bwh"} <= drawn


def test_it_equals_its_layer_node_by_node(images):
    graph, x = canonical(Graph.from_text(TEXT)), jnp.float32(images)
    layer, nodewise = norm_act(f"graph:{TEXT}")(), NodewiseLayer(graph, num_groups=1)
    assert nodewise.statistics == ("var_n6",)
    params = {name: jnp.full(8, 1.5) for name in ("scale", "bias", "v0", "v1")}
    state = {"var_n6": jnp.ones(8)}
    used = {name: params[name] for name in ("scale", "bias", "v1")}

    def apply(params, x):
        variables = {"params": params, "batch_stats": state}
        return layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])

    y, pullback, updates = jax.vjp(apply, used, x, has_aux=True)
    by_params, by_x = pullback(jnp.cos(y))
    got, after, tape = nodewise.forward(params, state, x, train=True)
    got_params, got_x = nodewise.backward(tape, jnp.cos(y))
    np.testing.assert_allclose(got, y, rtol=1e-5)
    np.testing.assert_allclose(after["var_n6"], updates["batch_stats"]["var_n6"], rtol=1e-6)
    np.testing.assert_allclose(got_x, by_x, rtol=1e-4, atol=1e-4)
    for name, gradient in by_params.items():
        np.testing.assert_allclose(got_params[name], gradient, rtol=1e-4)


def test_a_layer_of_it_trains(images):
    """Towards a target that the layer can reach, by gradient descent."""
    layer, x = norm_act(f"graph:{TEXT}")(), jnp.float32(images)
    target = jnp.float32(3 * by_hand(images) - 1)
    variables = layer.init(jax.random.key(0), x, use_running_average=False)
    optimizer = optax.adam(0.2)

    @jax.jit
    def step(variables, opt_state):
        def loss(params):
            y, updates = layer.apply(
                {**variables, "params": params}, x, use_running_average=False,
                mutable=["batch_stats"],
            )  # fmt: skip
            return jnp.mean(jnp.square(y - target)), updates

        (value, updates), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        changes, opt_state = optimizer.update(gradients, opt_state)
        params = optax.apply_updates(variables["params"], changes)
        return {"params": params, **updates}, opt_state, value

    opt_state, losses = optimizer.init(variables["params"]), []
    for _ in range(40):
        variables, opt_state, value = step(variables, opt_state)
        losses.append(float(value))
    assert losses[-1] < 0.1 * losses[0]
    assert np.isfinite(losses).all()
    evaluated = layer.apply(variables, x, use_running_average=True)
    assert np.isfinite(evaluated).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arity": 3}, "primitive 'toy': arity must be of 1, 2, not 3"),
        ({"index_set": "hw"}, "index_set must be of None, 'bwh', 'whc', 'wh', 'whcg', not 'hw'"),
        ({"options": ("eps",)}, "options must be of 'epsilon', .* not 'eps'"),
        ({"index_set": "bwh"}, "statistic must be of 'mean', 'var', 'mean_square', not None"),
    ],
)
def test_a_row_that_cannot_work_is_refused(fields, message):
    row = {"arity": 1, "formula": "x", "jax_function": jnp.abs, "numpy_function": np.abs}
    with pytest.raises(UserError, match=message):
        Primitive("toy", **{**row, **fields})


def test_without_the_row_there_is_no_such_primitive(monkeypatch):
    monkeypatch.delitem(PRIMITIVES, "softplus")
    with pytest.raises(UserError, match="unknown primitive 'softplus'"):
        Graph.from_text(TEXT)
