"""The platforms' own operations against NumPy in float64; all of them run on any device."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.kernels import cpu_math, platforms
from evonorm_jax.kernels.elementwise import (
    Affine,
    AffineCoefficients,
    Gate,
    GateCoefficients,
    Ratio,
    RatioCoefficients,
)
from evonorm_jax.kernels.platforms import (
    Cpu,
    CpuBfloat16,
    Gpu,
    Platform,
    Tpu,
    TpuBfloat16,
)

PLATFORMS = pytest.mark.parametrize(
    "platform",
    [Cpu, CpuBfloat16, Gpu, Tpu, TpuBfloat16],
    ids=lambda platform: platform.__name__,
)
# 1, 8, 35, 49, 64 and 121 rows: one stage, two, several, and a tail that divides by nothing.
SIZES = [(1, 1), (2, 4), (5, 7), (7, 7), (8, 8), (11, 11)]


@PLATFORMS
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_terms", [1, 2, 3, 4, 5])
def test_sums(platform: Platform, size: tuple[int, int], num_terms: int) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 3, *size, 5)).astype(np.float32)

    @jax.jit
    def sums(x: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
        return platform.sums(lambda x, y: (x * y, x + y, x, x - y, y)[:num_terms], x, y)

    expected = (x * y, x + y, x, x - y, y)[:num_terms]
    actual = sums(x, y)
    assert len(actual) == num_terms
    for total, terms in zip(actual, expected, strict=True):
        np.testing.assert_allclose(total, terms.sum((1, 2), np.float64), rtol=1e-5, atol=1e-5)


_ONES = np.ones((2, 1, 1, 3), np.float32)
# What `Gpu.sums` reduces for the gradients: the number of reductions of each dtype. A third sum of
# dy alone is a read of its own only in S0.
GPU_REDUCTIONS = {
    "s0": (Gate(), GateCoefficients(_ONES, _ONES, _ONES), {"complex64": 1, "float32": 1}),
    "s1": (Gate(), GateCoefficients(None, _ONES, _ONES), {"complex64": 1}),
    "b": (Ratio(), RatioCoefficients(*[_ONES] * 4), {"complex64": 2}),
    "bn_relu": (Affine("relu"), AffineCoefficients(*[_ONES] * 3), {"complex64": 1}),
    "gn_identity": (Affine("identity"), AffineCoefficients(*[_ONES] * 3), {"complex64": 1}),
}


@pytest.mark.parametrize("name", GPU_REDUCTIONS)
def test_gpu_sums_share_reductions(name: str) -> None:
    form, coefficients, expected = GPU_REDUCTIONS[name]

    def sums(x: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        return Gpu.sums(lambda x, dy: form.terms(Gpu, x, dy, coefficients), x, dy)

    x = jnp.ones((2, 9, 9, 3), jnp.bfloat16)  # smaller maps are summed in chunks
    found = collections.Counter(
        str(equation.invars[0].aval.dtype)
        for equation in jax.make_jaxpr(sums)(x, x).eqns
        if equation.primitive.name == "reduce_sum"
    )
    assert found == expected


@PLATFORMS
@pytest.mark.parametrize("mean", [0, 1000])
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (11, 11)])
def test_moments(platform: Platform, size: tuple[int, int], mean: float) -> None:
    x = np.random.default_rng(0).normal(mean, 1, (3, *size, 4)).astype(np.float32)
    actual_mean, actual_variance = jax.jit(platform.moments)(x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(actual_mean, wide.mean((1, 2)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(actual_variance, wide.var((1, 2)), rtol=1e-5, atol=1e-10)


@PLATFORMS
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4, -3e15])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_constant_map_has_no_variance(platform: Platform, value: float, dtype: str) -> None:
    value = max(value, -6e4) if dtype == "float16" else value
    x = jnp.full((2, 5, 7, 3), value, dtype)
    mean, variance = platform.moments(x)
    np.testing.assert_allclose(mean, x[:, 0, 0], rtol=1e-6)
    assert (np.abs(variance) <= (1e-6 * value) ** 2).all()
    assert (variance >= 0).all()


@pytest.mark.parametrize("ratio", [0, 1, 15, 17, 1000])
def test_one_pass_of_the_tpu_is_enough_or_followed_by_another(
    ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platforms, "is_partitioned", lambda: False)
    x = np.random.default_rng(0).normal(0, 1, (3, 28, 28, 8)).astype(np.float32)
    x[1, :, :, 2] += ratio  # a single map is enough
    mean, variance = jax.jit(Tpu.moments)(x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean((1, 2)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance, wide.var((1, 2)), rtol=3e-5 if ratio == 15 else 2e-6)


def test_the_tpu_has_a_second_pass_where_squares_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "is_partitioned", lambda: False)
    x = jnp.array([1e20, 1.000001e20, 1.0, 3.0]).reshape(1, 2, 1, 2).swapaxes(1, 3)
    mean, variance = jax.jit(Tpu.moments)(x)
    assert np.isfinite(mean).all()
    assert np.isfinite(variance).all()
    np.testing.assert_allclose(variance[0, 1], 1.0)


def test_the_tpu_hands_on_what_is_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "is_partitioned", lambda: False)
    x = jnp.ones((2, 3, 3, 2)).at[0, 0, 0, 0].set(jnp.nan)
    _, variance = Tpu.moments(x)
    np.testing.assert_array_equal(variance, [[np.nan, 0], [0, 0]])


def test_zero_padding_does_not_cost_the_gpu_its_digits() -> None:
    x = np.random.default_rng(0).normal(1000, 1, (2, 12, 12, 3)).astype(np.float32)
    x[:, 0] = 0  # a first row that is no sample of the rest would be a bad pivot
    _, variance = Gpu.moments(jnp.asarray(x))
    np.testing.assert_allclose(variance, x.astype(np.float64).var((1, 2)), rtol=1e-5)


@PLATFORMS
@pytest.mark.parametrize("num_groups", [1, 3, 12])
@pytest.mark.parametrize("fuses", [True, False])
def test_groups(
    platform: Platform, num_groups: int, fuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platforms, "_FUSES_THROUGH_BARRIERS", fuses)  # of either version of JAX
    x = np.random.default_rng(0).normal(size=(2, 12)).astype(np.float32)
    pooled = platform.group_mean(jnp.asarray(x), num_groups)
    expected = x.reshape(2, num_groups, -1).mean(-1)
    np.testing.assert_allclose(pooled, expected, rtol=1e-6, atol=1e-7)
    spread = platform.ungroup(pooled, 12)
    np.testing.assert_allclose(spread, np.repeat(pooled, 12 // num_groups, axis=1), rtol=1e-6)


@PLATFORMS
def test_gate(platform: Platform) -> None:
    x = jnp.concatenate([jnp.linspace(-200, 200, 4001), jnp.array([-np.inf, np.inf])])
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-np.asarray(x, np.float64)))
    # A quarter of the exponential's error, which is 1.5e-4 where x was bfloat16.
    atol = 4e-5 if platform is CpuBfloat16 else 2e-7
    np.testing.assert_allclose(platform.sigmoid(2.0, x / 2), expected, rtol=0, atol=atol)
    gated = platform.gate(2 * jnp.ones_like(x), 1.0, x)
    np.testing.assert_allclose(gated, 2 * expected, rtol=0, atol=2 * atol)
    assert np.isnan(platform.sigmoid(1.0, jnp.array(np.nan)))


@PLATFORMS
def test_gate_derivative(platform: Platform) -> None:
    x = np.linspace(-200, 200, 4001)
    gate = 1 / (1 + np.exp(-2 * x))
    expected = 3 * (gate + 2 * x * gate * (1 - gate))
    actual = platform.gate_derivative(3.0, 2.0, jnp.asarray(x, jnp.float32))
    # The gate may be off as in test_gate, and the result depends on it by 3 (1 + 2x (1 - 2 gate)).
    tolerance = 3 * (1 + np.abs(2 * x)) * (4e-5 if platform is CpuBfloat16 else 2e-7)
    assert (np.abs(actual - expected) < tolerance).all()


@PLATFORMS
def test_division(platform: Platform) -> None:
    numerator, exponent = np.random.default_rng(0).normal(0, 10, (2, 1000)).astype(np.float32)
    denominator = np.exp(exponent)
    expected = numerator.astype(np.float64) / denominator
    # At most four roundings of 2^-24: the root counts twice, and each product once.
    for divide in (platform.quotient, lambda y, m: platform.divider(m)(y)):
        np.testing.assert_allclose(jax.jit(divide)(numerator, denominator), expected, rtol=3e-7)
        assert divide(jnp.array(2.0), jnp.array(jnp.inf)) == 0


@PLATFORMS
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_cast(platform: Platform, dtype: str) -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.float32)
    y = platform.cast(x, jnp.dtype(dtype))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x.astype(dtype))


def test_rounding_to_bfloat16() -> None:
    # 1 + 2^-8 lies halfway between 1 and the next bfloat16, 1 + 2^-7; ties go away from zero.
    tie = 1 + 2.0**-8
    values = [0.0, -0.0, tie, -tie, tie - 2.0**-20, 3.4e38, -np.inf, np.inf, np.nan]
    rounded = cpu_math.round_to_bfloat16(jnp.array(values, jnp.float32))
    expected = [0.0, -0.0, 1 + 2.0**-7, -1 - 2.0**-7, 1.0, np.inf, -np.inf, np.inf, np.nan]
    np.testing.assert_array_equal(rounded.astype(jnp.float32), expected)
    assert np.signbit(rounded.astype(jnp.float32)[1])


def test_exp2() -> None:
    x = jnp.linspace(-126, 126, 20001)
    exact = np.exp2(np.asarray(x, np.float64))
    np.testing.assert_allclose(cpu_math.exp2(x), exact, rtol=4e-7, atol=0)
    np.testing.assert_allclose(cpu_math.exp2(x, True), exact, rtol=1.6e-4, atol=0)
    whole = jnp.arange(-126.0, 127.0)
    np.testing.assert_allclose(cpu_math.exp2(whole), np.exp2(whole), rtol=2e-7, atol=0)
    ends = cpu_math.exp2(jnp.array([-1e9, -np.inf, 1e9, np.inf]))
    np.testing.assert_allclose(ends, np.exp2([-126.0, -126, 126, 126]), rtol=2e-7)


@pytest.mark.parametrize("function", [cpu_math.exp2, cpu_math.round_to_bfloat16])
def test_bit_operations_have_a_derivative(function) -> None:
    value, tangent = jax.jvp(function, (jnp.float32(1.5),), (jnp.float32(1.0),))
    expected = np.log(2) * 2**1.5 if function is cpu_math.exp2 else 1.0
    np.testing.assert_allclose(tangent.astype(jnp.float32), expected, rtol=1e-6)
    assert tangent.dtype == value.dtype
