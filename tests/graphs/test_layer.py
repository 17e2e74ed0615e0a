"""A graph as a Flax layer: its fields, parameters and state, and its place in networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax import create_model, norm_act
from evonorm_jax.errors import UserError
from evonorm_jax.graphs.graph import Graph
from evonorm_jax.graphs.layer import graph_layer
from evonorm_jax.graphs.library import LIBRARY
from evonorm_jax.graphs.sources import PREFIX
from evonorm_jax.norm_act import accepts_field, activation_of, fuses_activation, resolve_norm_act
from evonorm_jax.search.evolution.space import SearchSpace, pad_graph

BATCH_FIELDS = ("momentum", "virtual_batch_size", "axis_name", "axis_index_groups")
GROUP_FIELDS = ("num_groups", "group_size")
COMMON = ("nonlinearity", "epsilon", "dtype", "param_dtype", "scale_init", "bias_init")
OWN = ("division_epsilon", "v0_init", "v1_init", "use_running_average")

#: Two moments of one node over the batch, and one of another node: three running statistics.
BUSY = (
    "n4 = abs(x); n5 = mean_bwh(n4); n6 = std_bwh(n4); n7 = tanh(n5); n8 = rms_bwh(n7);"
    "n9 = div(x, n6); n10 = mul(n9, n8); n11 = add(n10, n5)"
)


def images(shape=(4, 3, 2, 6), seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape) + rng.normal(size=shape[-1]), jnp.float32)


def factory(text, **fields):
    return norm_act(PREFIX + text, **fields)


def train(layer, variables, x):
    return layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])


@pytest.mark.parametrize("name", LIBRARY)
def test_accepts_just_the_fields_that_mean_something(name):
    primitives = LIBRARY[name].primitives()
    by_batch = any(primitive.batch_dependent for primitive in primitives)
    by_group = any(primitive.index_set == "whcg" for primitive in primitives)
    for layer in (PREFIX + name, graph_layer(LIBRARY[name]), norm_act(PREFIX + name)):
        assert all(accepts_field(layer, field) for field in COMMON + OWN)
        assert all(accepts_field(layer, field) == by_batch for field in BATCH_FIELDS)
        assert all(accepts_field(layer, field) == by_group for field in GROUP_FIELDS)
        assert fuses_activation(layer)
        with pytest.raises(UserError, match="no activation that can stand alone"):
            activation_of(layer)
    if not by_batch:
        with pytest.raises(UserError, match=r"unknown field of \w*GraphLayer 'momentum'"):
            norm_act(PREFIX + name, momentum=0.9)
    # The same fields as the layer of that name, but for what the graph calls otherwise.
    for field in BATCH_FIELDS + GROUP_FIELDS:
        assert accepts_field(name, field) == accepts_field(PREFIX + name, field)


def test_unused_batch_moments_ask_for_nothing():
    layer = factory("n4 = std_bwh(x); n5 = rms_whcg(x); n6 = tanh(x)")
    assert not any(accepts_field(layer, field) for field in BATCH_FIELDS + GROUP_FIELDS)
    assert layer().init(jax.random.key(0), images()).keys() == {"params"}


def test_parameters_are_those_the_graph_uses():
    x = images()
    for text, vectors in [
        ("n4 = tanh(x)", set()),
        ("n4 = mul(x, v1)", {"v1"}),
        ("n4 = mul(x, v1); n5 = max(n4, v0)", {"v0", "v1"}),
        ("n4 = mul(v0, v1); n5 = tanh(x)", set()),
    ]:
        params = factory(text)().init(jax.random.key(0), x)["params"]
        assert set(params) == {"scale", "bias"} | vectors
        initial = {"scale": 1, "bias": 0, "v0": 0, "v1": 1}
        for name, value in params.items():
            assert value.shape == (6,)
            assert value.dtype == jnp.float32
            np.testing.assert_array_equal(value, initial[name])


def test_initializers_and_param_dtype():
    init = jax.nn.initializers.constant
    layer = factory(
        "n4 = mul(x, v1); n5 = max(n4, v0)",
        v0_init=init(2.0),
        v1_init=init(3.0),
        scale_init=init(4.0),
        param_dtype=jnp.bfloat16,
    )()
    params = layer.init(jax.random.key(0), images())["params"]
    assert {name: float(value[0]) for name, value in params.items()} == {
        "v0": 2,
        "v1": 3,
        "scale": 4,
        "bias": 0,
    }
    assert all(value.dtype == jnp.bfloat16 for value in params.values())


@pytest.mark.parametrize("name", LIBRARY)
def test_without_nonlinearity_it_is_the_affine_map(name):
    x = images().astype(jnp.bfloat16)
    layer = norm_act(PREFIX + name, nonlinearity=False)()
    variables = layer.init(jax.random.key(0), x)
    assert {key: set(value) for key, value in variables.items()} == {"params": {"scale", "bias"}}
    params = {"scale": jnp.full(6, 3.0), "bias": jnp.full(6, 0.5)}
    y = layer.apply({"params": params}, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        y.astype(jnp.float32), 3 * x.astype(jnp.float32) + 0.5, rtol=2**-8, atol=2**-8
    )


def test_the_affine_map_follows_the_graph():
    x = images()
    params = {"scale": jnp.arange(6.0), "bias": jnp.arange(6.0) - 2}
    y = factory("n4 = tanh(x)")().apply({"params": params}, x)
    np.testing.assert_allclose(y, np.tanh(x) * np.arange(6) + np.arange(6) - 2, atol=1e-6)


def test_running_statistics_have_the_names_of_canonical_nodes():
    x, layer = images(), factory(BUSY, momentum=0.75)()
    variables = layer.init(jax.random.key(0), x, use_running_average=False)
    space = SearchSpace(num_nodes=12)
    padded = graph_layer(pad_graph(Graph.from_text(BUSY), np.random.default_rng(0), space))()
    again = padded.init(jax.random.key(0), x, use_running_average=False)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    state = variables["batch_stats"]
    assert sorted(name.partition("_n")[0] for name in state) == ["mean", "mean_square", "var"]
    for name, value in state.items():
        np.testing.assert_array_equal(value, np.full(6, 0 if name.startswith("mean_n") else 1))
        assert value.dtype == jnp.float32
    _, updates = train(layer, variables, x)
    values = np.abs(np.asarray(x, np.float64))
    mean = values.mean(axis=(0, 1, 2))
    batch = {"mean": mean, "var": values.var(axis=(0, 1, 2)), "mean_square": np.tanh(mean) ** 2}
    for name, value in updates["batch_stats"].items():
        expected = 0.75 * np.asarray(state[name]) + 0.25 * batch[name.partition("_n")[0]]
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_evaluation_with_the_statistics_of_a_batch_repeats_training():
    x, layer = images(), factory(BUSY, momentum=0.0)()
    variables = layer.init(jax.random.key(0), x, use_running_average=False)
    y, updates = train(layer, variables, x)
    evaluated = layer.apply(variables | updates, x, use_running_average=True)
    np.testing.assert_allclose(evaluated, y, rtol=1e-5, atol=1e-5)
    alone = layer.apply(variables | updates, x[:1], use_running_average=True)
    np.testing.assert_allclose(alone, y[:1], rtol=1e-5, atol=1e-5)
    assert not np.allclose(layer.apply(variables, x, use_running_average=True), y, atol=1e-2)


def test_initialisation_averages_nothing():
    layer = factory(BUSY, virtual_batch_size=3, momentum=0.0)()
    variables = layer.init(jax.random.key(0), images((1, 2, 2, 6)), use_running_average=False)
    assert all(set(np.unique(value)) <= {0, 1} for value in variables["batch_stats"].values())


def test_virtual_batches_equal_separate_batches():
    x = images((6, 3, 2, 6))
    layer = factory(BUSY, virtual_batch_size=3)()
    variables = layer.init(jax.random.key(0), x, use_running_average=False)
    y, updates = train(layer, variables, x)
    parts = [train(factory(BUSY)(), variables, x[i : i + 3]) for i in (0, 3)]
    np.testing.assert_allclose(y, np.concatenate([part[0] for part in parts]), rtol=1e-5, atol=1e-6)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, parts[0][1], parts[1][1])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), updates, mean)


def test_statistics_pooled_over_devices_equal_those_of_the_whole_batch():
    x = images((4, 3, 2, 6))
    pooled = factory(BUSY, axis_name="batch")()
    variables = factory(BUSY)().init(jax.random.key(0), x, use_running_average=False)
    y, updates = train(factory(BUSY)(), variables, x)
    split = jax.pmap(lambda part: train(pooled, variables, part), axis_name="batch")
    got_y, got_updates = split(x.reshape(2, 2, *x.shape[1:]))
    np.testing.assert_allclose(got_y.reshape(x.shape), y, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-5), got_updates, updates)


def test_batch_dependence_asks_for_the_mode():
    x, layer = images(), factory("rs_rej")()
    variables = layer.init(jax.random.key(0), x, use_running_average=False)
    with pytest.raises(UserError, match="needs use_running_average exactly once"):
        layer.apply(variables, x)
    with pytest.raises(UserError, match="updates its running statistics"):
        layer.apply(variables, x, use_running_average=False)
    factory("evonorm_s0")().apply(
        factory("evonorm_s0")().init(jax.random.key(0), x), x, use_running_average=None
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"momentum": 1.5}, r"momentum=1.5 must lie between 0 and 1"),
        ({"virtual_batch_size": 2, "axis_name": "batch"}, "give one of the two"),
        ({"virtual_batch_size": 3}, "virtual_batch_size=3 must divide the 4 examples"),
        ({"epsilon": -1.0}, "epsilon=-1.0 must not be negative"),
        ({"division_epsilon": -1.0}, "division_epsilon=-1.0 must not be negative"),
    ],
)
def test_bad_fields(fields, message):
    x = images()
    variables = factory(BUSY)().init(jax.random.key(0), x, use_running_average=False)
    with pytest.raises(UserError, match=message):
        train(factory(BUSY, **fields)(), variables, x)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", [*LIBRARY, BUSY])
def test_half_precision_is_float32_rounded_once(name, dtype):
    x = images().astype(dtype)
    layer = factory(name)()
    variables = layer.init(jax.random.key(0), x, use_running_average=False)
    y, _ = train(layer, variables, x)
    exact, _ = train(layer, variables, x.astype(jnp.float32))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, exact.astype(dtype))


@pytest.mark.parametrize("name", LIBRARY)
@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 3, 3, 4)])
def test_constant_maps_and_single_pixels_are_finite(name, shape):
    x = jnp.ones(shape)
    layer = factory(name)()
    variables = layer.init(jax.random.key(0), x, use_running_average=False)

    def loss(params, x):
        state = {key: value for key, value in variables.items() if key != "params"}
        y, _ = train(layer, {"params": params} | state, x)
        return y.sum()

    gradients = jax.grad(loss, argnums=(0, 1))(variables["params"], x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_graphs_that_are_no_layers():
    with pytest.raises(UserError, match="no path leads from x"):
        norm_act("graph:n4 = exp(v0)")
    with pytest.raises(UserError, match="unknown primitive 'relu'"):
        norm_act("graph:n4 = relu(x)")
    with pytest.raises(UserError, match=r"graph:none.json: there is no graph file 'none.json'"):
        norm_act("graph:none.json")
    with pytest.raises(UserError, match="there is no graph file ''"):
        accepts_field("graph:", "epsilon")


def test_layers_are_values():
    one, two = factory("evonorm_s0")(), factory("evonorm_s0", group_size=2)()
    assert one == factory(LIBRARY["evonorm_s0"].to_text())()
    assert hash(one) == hash(factory("evonorm_s0")())
    assert one != two
    jitted = jax.jit(lambda layer, x: layer.init(jax.random.key(0), x), static_argnums=0)
    assert jitted(one, images())["params"]["v1"].shape == (6,)


def test_resolved_names_need_no_file(tmp_path):
    path = tmp_path / "winner.json"
    LIBRARY["evonorm_s2"].save(path)
    name = resolve_norm_act(f"graph:{path}")
    path.unlink()
    assert name == f"graph:winner: {LIBRARY['evonorm_s2']}"
    assert resolve_norm_act(name) == name
    assert norm_act(name)().graph == LIBRARY["evonorm_s2"]
    assert resolve_norm_act("bn_relu") == "bn_relu"


@pytest.mark.parametrize("name", ["evonorm_s0", "bn_relu"])
@pytest.mark.usefixtures("quick_compilation")
def test_in_a_network(name, tmp_path):
    """From a file; the same function as the network with the layer of that name."""
    path = tmp_path / "layer.json"
    LIBRARY[name].save(path)
    fields = {"group_size": 8} if name == "evonorm_s0" else {}
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    outputs = []
    for layer in (f"graph:{path}", name):
        model = create_model("cifar_resnet20", 10, layer, norm_act_fields=fields, depth=8)

        def run(images, model=model):
            variables = model.init(jax.random.key(0), images, train=False)
            logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
            return logits, model.apply(variables | updates, images, train=False)

        outputs.append(jax.jit(run)(images))
    for got, expected in zip(*outputs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_post_activation_network_refuses_it():
    with pytest.raises(UserError, match="GroupGraphLayer fuses normalisation and activation"):
        create_model("resnet50_v1", 10, "graph:gn_relu")
