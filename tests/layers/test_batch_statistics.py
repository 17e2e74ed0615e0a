"""Running statistics, the mode, virtual batches and devices, for every batch-dependent layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax import EvoNormB0, EvoNormS0, norm_act, norm_act_names
from evonorm_jax.errors import UserError
from evonorm_jax.layers import BatchNormReLU
from tests.layers import oracle
from tests.layers.deviations import make_case, run_layer

BATCH_DEPENDENT = tuple(oracle.TRACKED)
SHAPE = (8, 3, 2, 8)


def train(layer, variables, x):
    return layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])


@pytest.mark.parametrize("name", BATCH_DEPENDENT)
def test_update_of_the_running_statistics(name):
    case = make_case(name, shape=SHAPE)
    *_, updates = run_layer(norm_act(name, momentum=0.8)(), case)
    exact = case.float64()
    assert set(updates) == set(oracle.TRACKED[name])
    for key, statistic in oracle.TRACKED[name].items():
        batch = statistic(exact.x, oracle.BATCH)[0, 0, 0]
        expected = 0.8 * exact.running[key] + 0.2 * batch
        # Absolute as well: the two summands, of order 0.3, may nearly cancel.
        np.testing.assert_allclose(updates[key], expected, rtol=1e-6, atol=1e-7)


def test_update_by_hand():
    """One channel holding 1 and 5: variance 4, so 0.9 * 1 + 0.1 * 4 and again."""
    x = jnp.array([1.0, 5.0]).reshape(2, 1, 1, 1)
    layer = EvoNormB0()
    variables = layer.init(jax.random.key(0), x, use_running_average=False)
    assert variables["batch_stats"]["var"] == 1
    for expected in (1.3, 1.57):
        _, updates = train(layer, variables, x)
        variables = variables | updates
        np.testing.assert_allclose(variables["batch_stats"]["var"], expected, rtol=1e-6)


@pytest.mark.parametrize("name", BATCH_DEPENDENT)
def test_evaluation_agrees_with_training(name):
    """The bug that users meet most: training goes well, evaluation has other statistics.

    With momentum 0 the running statistics are those of the last batch.
    """
    layer = norm_act(name, momentum=0.0)()
    x = make_case(name, shape=SHAPE).x
    variables = layer.init(jax.random.key(0), x, use_running_average=False)
    y, updates = train(layer, variables, x)
    evaluated = layer.apply(variables | updates, x, use_running_average=True)
    np.testing.assert_allclose(evaluated, y, rtol=1e-5, atol=1e-5)
    assert not np.allclose(layer.apply(variables, x, use_running_average=True), y, atol=1e-2)


@pytest.mark.parametrize("name", BATCH_DEPENDENT)
def test_evaluation_changes_nothing_and_sees_one_image_at_a_time(name):
    case = make_case(name, shape=SHAPE)
    layer = norm_act(name, use_running_average=True, virtual_batch_size=3)()
    variables = {"params": case.params, "batch_stats": case.running}
    y, updates = layer.apply(variables, case.x, mutable=["batch_stats"])
    for key, value in case.running.items():
        np.testing.assert_array_equal(updates["batch_stats"][key], value)
    for i in range(2):
        alone = layer.apply(variables, case.x[i : i + 1])
        np.testing.assert_allclose(y[i : i + 1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BATCH_DEPENDENT)
def test_virtual_batches_equal_separate_batches(name):
    """Values, gradients, and running statistics as the mean over the virtual batches."""
    case = make_case(name, shape=SHAPE)
    y, by_x, by_params, updates = run_layer(norm_act(name, virtual_batch_size=4)(), case)
    parts = []
    for i in range(0, 8, 4):
        part = make_case(name, shape=SHAPE)
        object.__setattr__(part, "x", case.x[i : i + 4])
        object.__setattr__(part, "cotangent", case.cotangent[i : i + 4])
        parts.append(run_layer(norm_act(name)(), part))
    np.testing.assert_allclose(y, jnp.concatenate([p[0] for p in parts]), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(by_x, jnp.concatenate([p[1] for p in parts]), rtol=1e-4, atol=1e-6)
    for key, value in by_params.items():
        np.testing.assert_allclose(value, sum(p[2][key] for p in parts), rtol=1e-4, atol=1e-5)
    for key, value in updates.items():
        np.testing.assert_allclose(value, sum(p[3][key] for p in parts) / 2, rtol=1e-6)


@pytest.mark.parametrize("name", BATCH_DEPENDENT)
def test_a_virtual_batch_of_everything_is_the_batch(name):
    case = make_case(name, shape=SHAPE)
    whole = run_layer(norm_act(name)(), case)
    virtual = run_layer(norm_act(name, virtual_batch_size=8)(), case)
    jax.tree.map(np.testing.assert_array_equal, whole, virtual)


@pytest.mark.parametrize("name", ["evonorm_b0", "rs_rej"])
@pytest.mark.parametrize("groups", [None, ((0, 1), (2, 3))])
def test_devices_that_pool_equal_one_device(name, groups):
    """Four devices of two images against one with them all (or two with half each).

    The gradient by x is that of the sum of the losses; those by the parameters add up.
    """
    case = make_case(name, shape=SHAPE)
    one = run_layer(norm_act(name, virtual_batch_size=None if groups is None else 4)(), case)
    layer = norm_act(name, axis_name="batch", axis_index_groups=groups)()

    def per_device(x, cotangent):
        part = make_case(name, shape=SHAPE)
        object.__setattr__(part, "x", x)
        object.__setattr__(part, "cotangent", cotangent)
        return run_layer(layer, part)

    split = (4, 2, *SHAPE[1:])
    y, by_x, by_params, updates = jax.pmap(per_device, axis_name="batch")(
        case.x.reshape(split), case.cotangent.reshape(split)
    )
    np.testing.assert_allclose(y.reshape(SHAPE), one[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_x.reshape(SHAPE), one[1], rtol=1e-4, atol=1e-5)
    for key, value in by_params.items():
        np.testing.assert_allclose(value.sum(axis=0), one[2][key], rtol=1e-4, atol=1e-5)
    for key, value in updates.items():
        if groups is None:
            assert (value == value[0]).all()
        np.testing.assert_allclose(value.mean(axis=0), one[3][key], rtol=1e-5)


@pytest.mark.parametrize("name", BATCH_DEPENDENT)
def test_one_image_outside_any_pmap_initialises(name):
    for fields in (
        {"axis_name": "batch", "axis_index_groups": ((0, 1),)},
        {"virtual_batch_size": 4},
    ):
        layer = norm_act(name, **fields)()
        variables = layer.init(jax.random.key(0), jnp.ones((1, 2, 2, 4)), use_running_average=False)
        assert set(variables["batch_stats"]) == set(oracle.TRACKED[name])
        for key, value in variables["batch_stats"].items():
            np.testing.assert_array_equal(value, 0.0 if key == "mean" else 1.0)


@pytest.mark.parametrize("name", BATCH_DEPENDENT)
def test_the_mode_is_asked_for(name):
    x = jnp.ones((2, 2, 2, 4))
    with pytest.raises(UserError, match=r"use_running_average exactly once.*0 times"):
        norm_act(name)().init(jax.random.key(0), x)
    with pytest.raises(UserError, match=r"use_running_average exactly once.*2 times"):
        norm_act(name, use_running_average=True)().init(
            jax.random.key(0), x, use_running_average=False
        )


@pytest.mark.parametrize("name", sorted(set(norm_act_names()) - set(BATCH_DEPENDENT)))
def test_batch_independent_layers_ignore_the_mode(name):
    case = make_case(name)
    layer = norm_act(name)()
    outputs = [layer.apply({"params": case.params}, case.x, mode) for mode in (None, False, True)]
    outputs.append(
        norm_act(name, use_running_average=True)().apply({"params": case.params}, case.x, False)
    )
    for y in outputs[1:]:
        np.testing.assert_array_equal(y, outputs[0])


@pytest.mark.parametrize("name", BATCH_DEPENDENT)
def test_training_needs_mutable_statistics(name):
    case = make_case(name)
    variables = {"params": case.params, "batch_stats": case.running}
    with pytest.raises(UserError, match=r'mutable=\["batch_stats"\]'):
        norm_act(name)().apply(variables, case.x, use_running_average=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"virtual_batch_size": 2, "axis_name": "batch"}, "give one of the two"),
        ({"axis_index_groups": ((0, 1),)}, "needs axis_name"),
        ({"momentum": 1.5}, "momentum=1.5 must lie between 0 and 1"),
        ({"epsilon": -1e-5}, "epsilon=-1e-05 must not be negative"),
    ],
)
@pytest.mark.parametrize("use_running_average", [False, True])
def test_contradictory_fields_are_refused_at_once(fields, message, use_running_average):
    """At initialisation, in training and in evaluation alike, not after the first epoch."""
    layer = BatchNormReLU(**fields)
    with pytest.raises(UserError, match=message):
        layer.init(jax.random.key(0), jnp.ones((2, 2, 2, 4)), use_running_average)


def test_virtual_batch_size_must_divide_the_batch():
    case = make_case("evonorm_b0", shape=SHAPE)
    with pytest.raises(UserError, match="virtual_batch_size=3 must divide the 8 examples"):
        run_layer(EvoNormB0(virtual_batch_size=3), case)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((2, 4), np.float32), r"EvoNormS0 takes images \[N, H, W, C\].*\(2, 4\)"),
        (np.ones((2, 0, 2, 4), np.float32), r"none of them 0.*\(2, 0, 2, 4\)"),
        (np.ones((2, 2, 2, 4), np.uint8), "floating-point images, not uint8"),
        (np.ones((2, 2, 2, 4), np.complex64), "floating-point images, not complex64"),
    ],
)
def test_inputs_that_are_refused(x, message):
    with pytest.raises(UserError, match=message):
        EvoNormS0().init(jax.random.key(0), x)


@pytest.mark.parametrize("name", ["evonorm_b0", "evonorm_s0", "gn_relu", "bn_swish"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_output_dtype(name, dtype):
    """The field decides, whatever the input; parameters have their own dtype."""
    layer = norm_act(name, dtype=dtype, param_dtype=jnp.bfloat16)()
    for input_dtype in ("float32", "bfloat16"):
        x = jnp.ones((2, 2, 2, 4), input_dtype)
        y, variables = layer.init_with_output(jax.random.key(0), x, use_running_average=False)
        assert y.dtype == dtype
        assert all(value.dtype == jnp.bfloat16 for value in variables["params"].values())
        assert all(v.dtype == jnp.float32 for v in variables.get("batch_stats", {}).values())
