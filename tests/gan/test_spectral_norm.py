"""Spectral normalisation: singular values, gradients, and when the vectors move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from evonorm_jax.gan import SpectralNorm
from evonorm_jax.gan.orthogonal import orthogonal

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = jnp.ones((2, 6, 6, 3))


class Network(nn.Module):
    """Kernels of three shapes, two of them alike, drawn without any normalisation."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), dtype=self.dtype)(x)
        x = nn.Conv(8, (3, 3), dtype=self.dtype)(x)
        x = nn.tanh(nn.Conv(8, (3, 3), dtype=self.dtype)(x))
        x = nn.BatchNorm(use_running_average=False)(x.astype(jnp.float32))
        return nn.Dense(5)(jnp.mean(x, axis=(1, 2)))


@pytest.fixture(scope="module")
def variables():
    return SpectralNorm(Network()).init(jax.random.key(0), X)


def matrices(params):
    """Every kernel `[K, C_out]`, float64."""
    return {
        path: np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
        for path, kernel in traverse_util.flatten_dict(params).items()
        if path[-1] in ("kernel", "embedding")
    }


def test_shapes(variables):
    shapes = jax.tree.map(jnp.shape, variables["spectral"])
    assert shapes == {
        "27x8": {"u": (1, 8), "v": (1, 27)},
        "72x8": {"u": (2, 8), "v": (2, 72)},
        "8x5": {"u": (1, 5), "v": (1, 8)},
    }
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables["spectral"]))


def test_largest_singular_values_after_fifty_steps(variables):
    layer = SpectralNorm(Network())
    spectral = layer.iterate(variables["params"], variables["spectral"], 50)
    normalized, _ = layer.normalize(variables["params"], spectral, step=False)
    raw = {path: np.linalg.svd(w)[1][0] for path, w in matrices(variables["params"]).items()}
    assert min(abs(value - 1) for value in raw.values()) > 0.02  # or the next lines say nothing
    for path, w in matrices(normalized).items():
        assert np.linalg.svd(w)[1][0] == pytest.approx(1, abs=1e-3), path
    largest = layer.largest_singular_value(variables["params"], spectral)
    assert float(largest) == pytest.approx(max(raw.values()), rel=1e-3)


def test_the_first_sigmas_are_near(variables):
    """15 steps before the first forward pass; a random vector alone is 29 % off."""
    normalized, _ = SpectralNorm(Network()).normalize(
        variables["params"], variables["spectral"], step=False
    )
    for path, w in matrices(normalized).items():
        assert np.linalg.svd(w)[1][0] == pytest.approx(1, abs=0.03), path


def test_a_step_of_the_power_method(variables):
    """The kernels of one shape together give what each gives alone, in NumPy and float64."""
    layer = SpectralNorm(Network())
    params = variables["params"]
    start = layer.iterate(params, variables["spectral"], 0)
    start = jax.tree.map(lambda x: x + 0.3 * jnp.cos(jnp.arange(x.shape[-1])), start)
    normalized, moved = layer.normalize(params, start, step=True)
    one_more = layer.iterate(params, start, 1)
    for name, paths in layer.groups(params).items():
        for i, path in enumerate(paths):
            w = matrices(params)[path]
            v = w @ np.asarray(start[name]["u"][i], np.float64)
            v /= np.linalg.norm(v)
            u = w.T @ v
            u /= np.linalg.norm(u)
            np.testing.assert_allclose(moved[name]["u"][i], u, atol=1e-6)
            np.testing.assert_allclose(moved[name]["v"][i], v, atol=1e-6)
            np.testing.assert_allclose(one_more[name]["v"][i], v, atol=1e-6)
            np.testing.assert_allclose(matrices(normalized)[path], w / (v @ w @ u), atol=1e-6)


def test_gradient_with_fixed_vectors(variables):
    """sigma = v^T W u counts, u and v do not: against plain differentiation in float64."""
    layer = SpectralNorm(Network())
    with jax.enable_x64(True):
        params, spectral = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64), (variables["params"], variables["spectral"])
        )
        # Not the vectors of the power method, so that the gradient of sigma has no special form.
        spectral = jax.tree.map(lambda x: x + 0.2 * jnp.sin(jnp.arange(x.shape[-1])), spectral)

        def loss(normalized):
            return sum(jnp.sum(jnp.sin(3 * leaf)) for leaf in jax.tree.leaves(normalized))

        def plain(params):
            flat = traverse_util.flatten_dict(params)
            for name, paths in layer.groups(params).items():
                for i, path in enumerate(paths):
                    w = flat[path].reshape(-1, flat[path].shape[-1])
                    sigma = spectral[name]["v"][i] @ w @ spectral[name]["u"][i]
                    flat[path] = flat[path] / sigma
            return loss(traverse_util.unflatten_dict(flat))

        @jax.jit
        def gradients(params):
            ours = jax.grad(lambda p: loss(layer.normalize(p, spectral, step=False)[0]))(params)
            return ours, jax.grad(plain)(params)

        ours, expected = gradients(params)
        # The vectors and sigma are float32 whatever the parameters are.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, expected)


def test_gradient_against_finite_differences(variables):
    layer = SpectralNorm(Network())
    direction = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), variables)

    @jax.jit
    def loss(params):
        y, _ = layer.apply({**variables, "params": params}, X, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y))

    def moved(step):
        return jax.tree.map(lambda p, d: p + step * d, variables["params"], direction["params"])

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    along = sum(
        jnp.vdot(g, d)
        for g, d in zip(
            jax.tree.leaves(gradient), jax.tree.leaves(direction["params"]), strict=True
        )
    )
    step = 1e-2
    difference = (loss(moved(step)) - loss(moved(-step))) / (2 * step)
    assert float(along) == pytest.approx(float(difference), rel=2e-2, abs=1e-3)


@pytest.mark.parametrize("mutable", [False, ["batch_stats"], ["spectral"], "spectral", None])
def test_the_vectors_move_only_when_asked(variables, mutable):
    layer = SpectralNorm(nn.Dense(5))
    dense = layer.init(jax.random.key(0), jnp.ones((2, 4)))
    dense["params"]["kernel"] += jnp.arange(5.0)
    if mutable is None:
        result = layer.apply(dense, jnp.ones((2, 4)))
    else:
        result = layer.apply(dense, jnp.ones((2, 4)), mutable=mutable)
    if not mutable:
        assert result.shape == (2, 5)
        return
    y, updates = result
    assert y.shape == (2, 5)
    if "spectral" not in mutable:
        assert updates == {}
        return
    assert set(updates) == {"spectral"}
    assert not np.allclose(updates["spectral"]["4x5"]["u"], dense["spectral"]["4x5"]["u"])


def test_all_collections_come_back_together(variables):
    _, updates = SpectralNorm(Network()).apply(variables, X, mutable=["batch_stats", "spectral"])
    assert set(updates) == {"batch_stats", "spectral"}


def test_bfloat16_networks_have_float32_vectors(variables):
    layer = SpectralNorm(Network(jnp.bfloat16))
    y, updates = layer.apply(variables, X, mutable=["batch_stats", "spectral"])
    exact, expected = SpectralNorm(Network()).apply(
        variables, X, mutable=["batch_stats", "spectral"]
    )
    jax.tree.map(np.testing.assert_array_equal, updates["spectral"], expected["spectral"])
    np.testing.assert_allclose(y, exact, atol=0.1)


def test_a_kernel_of_zeros_stays_zero():
    """A dead layer: sigma is epsilon, not 0, and nothing turns into NaN."""
    layer = SpectralNorm(nn.Dense(5))
    variables = layer.init(jax.random.key(0), jnp.ones((2, 4)))
    variables["params"]["kernel"] *= 0

    def loss(params):
        y, updates = layer.apply(
            {**variables, "params": params}, jnp.ones((2, 4)), mutable="spectral"
        )
        return jnp.sum(y), updates

    gradient, updates = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    for leaf in jax.tree.leaves((gradient, updates)):
        assert np.isfinite(leaf).all()
    # Its vectors are 0 from then on, and so is v^T W u in evaluation.
    y = layer.apply({**variables, **updates}, jnp.ones((2, 4)))
    np.testing.assert_array_equal(y, np.zeros((2, 5)))


def test_initialisation_is_the_same_when_compiled():
    """Orthogonal kernels and vectors of the power method are drawn on the host in either case."""
    layer = SpectralNorm(nn.Dense(5, kernel_init=orthogonal))
    x = jnp.ones((2, 4))
    eager = layer.init(jax.random.key(3), x)
    compiled = jax.jit(layer.init)(jax.random.key(3), x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), eager, compiled)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(eager))
    other = layer.init(jax.random.key(4), x)
    assert not np.allclose(eager["params"]["kernel"], other["params"]["kernel"])
    assert not np.allclose(eager["spectral"]["4x5"]["u"], other["spectral"]["4x5"]["u"])
