"""The layers that compute through kernels: the same numbers whichever implementation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import evonorm_jax.nnx
from evonorm_jax import EvoNormB0, EvoNormS0, norm_act, norm_act_names
from evonorm_jax.errors import UserError
from evonorm_jax.kernels import IMPLEMENTATIONS
from evonorm_jax.layers import FusedLayer
from tests.kernels.test_mosaic_gpu import HAS_INTERPRETER
from tests.layers.deviations import make_case, run_layer

FUSED = [name for name in norm_act_names() if issubclass(norm_act(name).func, FusedLayer)]
SHAPE = (4, 3, 5, 8)


def test_which_layers_have_kernels():
    assert set(norm_act_names()) - set(FUSED) == {
        "pixel_norm_relu",
        "batch_instance_norm_relu",
        "switchable_norm_relu",
        "random",
        "random_rej",
        "rs_rej",
    }


@pytest.mark.parametrize("nonlinearity", [True, False])
@pytest.mark.parametrize("name", FUSED)
def test_values_gradients_and_statistics_equal_the_reference(name, nonlinearity):
    case = make_case(name, shape=SHAPE)
    if not nonlinearity:
        case.params.pop("v", None)
        case.params.pop("threshold", None)
    default, reference = (
        run_layer(norm_act(name, nonlinearity=nonlinearity, **fields)(), case)
        for fields in ({}, {"implementation": "reference"})
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-6), default, reference
    )


@pytest.mark.parametrize("name", FUSED)
def test_evaluation_equals_the_reference(name):
    x = jax.random.normal(jax.random.key(0), SHAPE)
    layer = norm_act(name, use_running_average=True)()
    variables = layer.init(jax.random.key(1), x)
    y = layer.apply(variables, x)
    reference = layer.clone(implementation="reference").apply(variables, x)
    np.testing.assert_allclose(y, reference, rtol=1e-5, atol=5e-6)


def test_pallas_off_the_gpu_is_the_form_of_xla():
    case = make_case("evonorm_s0", shape=SHAPE)
    pallas, xla = (
        run_layer(EvoNormS0(num_groups=4, implementation=implementation), case)
        for implementation in ("pallas", "xla")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-6), pallas, xla)


@pytest.mark.parametrize("evaluates", [False, True])
@pytest.mark.parametrize("name", ["evonorm_s0", "evonorm_b0", "random"])
def test_with_shortcut(name, evaluates):
    """The layer returns what it returns alone, and x as it came, whatever the layer's dtype is."""
    x = jax.random.normal(jax.random.key(0), SHAPE)
    layer = norm_act(name)(use_running_average=evaluates, dtype="bfloat16")
    variables = layer.init(jax.random.key(1), x)
    apply = functools.partial(layer.apply, variables, x, mutable=["batch_stats"])
    y, state = apply()
    assert not layer.adds_shortcut
    (actual, shortcut), actual_state = apply(with_shortcut=True)
    np.testing.assert_array_equal(shortcut, x, strict=True)
    np.testing.assert_array_equal(actual, y, strict=True)
    jax.tree.map(np.testing.assert_array_equal, actual_state, state)


def test_with_shortcut_of_nnx():
    x = jax.random.normal(jax.random.key(0), SHAPE)
    layer = evonorm_jax.nnx.EvoNormS0(8, implementation="pallas_shortcut", rngs=nnx.Rngs(0))
    assert layer.adds_shortcut
    y, shortcut = layer(x, with_shortcut=True)
    np.testing.assert_array_equal(y, layer(x))
    np.testing.assert_array_equal(shortcut, x)


def test_with_shortcut_is_no_array():
    layer = nn.remat(EvoNormS0)(implementation="pallas_shortcut")
    with pytest.raises(UserError, match="transform the block around the layer instead"):
        layer.init(jax.random.key(0), jnp.ones(SHAPE), with_shortcut=True)


@pytest.mark.parametrize("implementation", [None, *IMPLEMENTATIONS])
def test_gradient_with_shortcut(implementation):
    """That of a residual block without it; the kernel's program is checked by its interpreter."""
    if implementation == "pallas_interpret" and not HAS_INTERPRETER:
        pytest.skip("this JAX cannot interpret the kernel")
    x = jax.random.normal(jax.random.key(0), SHAPE)
    layer = EvoNormS0(num_groups=4, implementation=implementation)
    variables = EvoNormS0().init(jax.random.key(1), x)

    def apart(variables, x):
        return jnp.sum(jnp.cos(EvoNormS0(num_groups=4).apply(variables, x)) * jnp.sin(x))

    def joined(variables, x):
        y, shortcut = layer.apply(variables, x, with_shortcut=True)
        return jnp.sum(jnp.cos(y) * jnp.sin(shortcut))

    actual, expected = (
        jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, x) for loss in (joined, apart)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), actual, expected
    )


def test_forward_mode_needs_the_reference():
    x = jax.random.normal(jax.random.key(0), SHAPE)
    layer = EvoNormS0(implementation="reference")
    variables = layer.init(jax.random.key(1), x)
    step = 1e-3 * jnp.cos(x)
    _, change = jax.jvp(lambda x: layer.apply(variables, x), (x,), (step,))
    difference = layer.apply(variables, x + step) - layer.apply(variables, x - step)
    np.testing.assert_allclose(change, difference / 2, atol=1e-6)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: EvoNormS0().apply(variables, x), (x,), (step,))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (EvoNormS0(implementation="cuda"), "implementation='cuda' is unknown: use None"),
        (EvoNormB0(implementation="pallas"), "'pallas' exists for EvoNorm-S0 alone"),
    ],
)
def test_implementations_that_do_not_exist(layer, message):
    x = jnp.ones(SHAPE)
    with pytest.raises(UserError, match=message):
        jax.jit(lambda x: layer.init_with_output(jax.random.key(0), x, False))(x)
