"""Values and gradients in float64 against automatic differentiation of the transcription."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax import kernels
from evonorm_jax.kernels.platforms import Gpu, Platform, TpuBfloat16
from tests.kernels.cases import CASES, Case, by_name, float64, output_and_gradients, relative_errors

# The formulas are proved here; what optimising does to their rounding, in test_numerics.py.
pytestmark = pytest.mark.usefixtures("quick_compilation")


def check(case: Case, shape: tuple[int, ...], **static: Any) -> None:
    with float64():
        operands = case.operands(shape, "float64", mean=0.5)
        actual = output_and_gradients(case, "xla", operands, **static)
        expected = output_and_gradients(case, "reference", operands, **static)
        for name, a, b in zip(("y", "x", *case.params), actual, expected, strict=True):
            assert a.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max(), err_msg=name)


# 35 rows: chunks of 7, 5 left, short enough for one stage.
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_layer(case: Case) -> None:
    check(case, (4, 5, 7, 12))


# The constants are no other test's, so that none gets these forms from the cache of traces.
@pytest.mark.parametrize(("platform", "epsilon"), [(Gpu, 1.25e-3), (TpuBfloat16, 1.5e-3)])
@pytest.mark.parametrize(
    "name", ["s0", "s1", "b0", "b1", "b2", "gn_identity", "gn_swish", "bn_relu", "frn"]
)
def test_forms_of_accelerators(
    name: str, platform: Platform, epsilon: float, in_form: Callable[[Platform], None]
) -> None:
    in_form(platform)
    check(by_name[name], (4, 5, 7, 12), epsilon=epsilon)


@pytest.mark.parametrize(
    ("shape", "num_groups"),
    [
        ((3, 4, 3, 6), 6),  # C = groups: instance statistics
        ((3, 4, 3, 6), 1),  # one group: layer statistics
        ((2, 11, 11, 4), 2),  # 121 rows: no divisor from 4 to 8, so a chunked part and a tail
        ((5, 1, 1, 8), 2),  # one pixel
        ((1, 2, 2, 4), 2),  # one sample
        ((4, 8), 2),  # no spatial axis
        ((2, 9, 4), 2),  # one
        ((2, 3, 2, 5, 4), 2),  # three
    ],
)
def test_s0_shapes(shape: tuple[int, ...], num_groups: int) -> None:
    check(by_name["s0"], shape, num_groups=num_groups)


@pytest.mark.parametrize("shape", [(5, 1, 1, 3), (2, 11, 11, 2), (4, 6), (1, 3, 3, 4)])
def test_b0_shapes(shape: tuple[int, ...]) -> None:
    check(by_name["b0"], shape)


@pytest.mark.parametrize("name", ["b0", "bn_relu"])
def test_virtual_batches(name: str) -> None:
    check(by_name[name], (6, 3, 3, 4), virtual_batch_size=2)


def test_virtual_batches_are_separate_batches() -> None:
    x, v, scale, bias = by_name["b0"].operands((6, 3, 3, 4))
    y, variance = kernels.evonorm_b0(x, v, scale, bias, virtual_batch_size=2)
    parts = [kernels.evonorm_b0(part, v, scale, bias) for part in jnp.split(x, 3)]
    np.testing.assert_allclose(y, jnp.concatenate([part for part, _ in parts]), rtol=1e-6)
    mean_variance = np.mean([variance for _, variance in parts], axis=0)
    assert variance.shape == (4,)
    assert variance.dtype == jnp.float32
    np.testing.assert_allclose(variance, mean_variance, rtol=1e-6)


def test_batch_statistics() -> None:
    x, scale, bias = by_name["bn_relu"].operands((4, 3, 3, 5))
    _, mean, variance = kernels.batch_norm(x, scale, bias, activation="relu")
    np.testing.assert_allclose(mean, np.mean(x, (0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, np.var(x, (0, 1, 2)), rtol=1e-5)
    for function in (kernels.evonorm_b1, kernels.evonorm_b2):
        np.testing.assert_allclose(function(x, scale, bias)[1], variance, rtol=1e-5)


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_batch_variance_has_no_gradient(implementation: str) -> None:
    operands = by_name["b0"].operands((2, 2, 2, 3))

    def total_variance(*operands: jax.Array) -> jax.Array:
        return kernels.evonorm_b0(*operands, implementation=implementation)[1].sum()

    for gradient in jax.grad(total_variance, argnums=(0, 1, 2, 3))(*operands):
        np.testing.assert_array_equal(gradient, 0)


def test_running_variance_of_the_batch_gives_the_training_output() -> None:
    for name in ("b0", "b1", "b2"):
        operands = by_name[name].operands((4, 3, 3, 5))
        function = getattr(kernels, f"evonorm_{name}")
        y, variance = function(*operands)
        inference = getattr(kernels, f"evonorm_{name}_inference")
        np.testing.assert_allclose(inference(*operands, variance), y, rtol=1e-5, atol=1e-6)


def test_batch_norm_inference() -> None:
    x, scale, bias = by_name["bn_relu"].operands((2, 3, 3, 4))
    mean, variance = jnp.arange(4.0), jnp.arange(1.0, 5.0)
    y = kernels.batch_norm_inference(x, scale, bias, mean, variance, activation="relu")
    expected = np.maximum((x - mean) / np.sqrt(variance + 1e-5) * scale + bias, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["s0", "b0"])
def test_second_derivatives(name: str) -> None:
    case = by_name[name]
    operands = case.operands((2, 3, 3, 4))
    direction = case.operands((2, 3, 3, 4), seed=7)

    def hessian_vector(implementation: str) -> Any:
        function = case.call(implementation)

        def directional(*operands: jax.Array) -> jax.Array:
            gradients = jax.grad(
                lambda *operands: jnp.sum(jnp.sin(function(*operands))),
                argnums=tuple(range(len(operands))),
            )(*operands)
            return sum(jnp.vdot(g, d) for g, d in zip(gradients, direction, strict=True))

        return jax.jit(jax.grad(directional, argnums=tuple(range(len(operands)))))(*operands)

    for error in relative_errors(hessian_vector("xla"), hessian_vector("reference")):
        assert error < 1e-4


@pytest.mark.parametrize("name", ["s0", "b0", "gn_relu", "bn_swish", "frn"])
def test_gradient_penalty(name: str) -> None:
    # The penalised gradient is of a linear function of y, so dy is constant.
    case = by_name[name]
    operands = case.operands((2, 3, 3, 4))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 3, 4)), jnp.float32)

    def gradients(implementation: str) -> Any:
        function = case.call(implementation)

        def penalty(x: jax.Array, *params: jax.Array) -> jax.Array:
            dx = jax.grad(lambda x: jnp.vdot(weights, function(x, *params)))(x)
            return jnp.sum(jnp.square(dx))

        return jax.jit(jax.grad(penalty, argnums=tuple(range(len(operands)))))(*operands)

    for actual, expected in zip(gradients("xla"), gradients("reference"), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_forward_mode_needs_the_reference() -> None:
    operands = by_name["s0"].operands((2, 3, 3, 4))
    _, tangent = jax.jvp(by_name["s0"].call("reference"), operands, operands)
    assert np.isfinite(tangent).all()
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(by_name["s0"].call("xla"), operands, operands)


def test_vmap() -> None:
    case = by_name["s0"]
    x, *params = case.operands((6, 3, 3, 4))

    def gradient(x: jax.Array) -> jax.Array:
        return jax.grad(lambda x: jnp.sum(jnp.sin(case.call()(x, *params))))(x)

    batched = jax.vmap(gradient)(x.reshape(2, 3, 3, 3, 4)).reshape(x.shape)
    np.testing.assert_allclose(batched, gradient(x), rtol=1e-5, atol=1e-6)
