"""The reductions: by hand, against NumPy in float64, over virtual batches and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.kernels import moments
from evonorm_jax.kernels.pooling import over_examples

# Two images of 1 x 2 pixels and four channels.
TINY = jnp.array(
    [
        [[[1.0, 10.0, 0.0, 4.0], [3.0, 10.0, 2.0, 4.0]]],
        [[[5.0, 20.0, 0.0, 8.0], [7.0, 40.0, 6.0, 8.0]]],
    ]
)


def test_instance_by_hand():
    mean, var = moments.instance_moments(TINY)
    np.testing.assert_array_equal(mean[:, 0, 0], [[2, 10, 1, 4], [6, 30, 3, 8]])
    np.testing.assert_array_equal(var[:, 0, 0], [[1, 0, 1, 0], [1, 100, 9, 0]])
    np.testing.assert_array_equal(
        moments.instance_mean_square(TINY)[:, 0, 0], [[5, 100, 2, 16], [37, 1000, 18, 64]]
    )


def test_group_by_hand():
    """Image 0, channels 0 and 1: 1 3 10 10, mean 6, deviations 5 3 4 4, variance 66 / 4."""
    mean, var = moments.group_moments(TINY, num_groups=2)
    np.testing.assert_array_equal(mean[0, 0, 0], [6, 6, 2.5, 2.5])
    np.testing.assert_array_equal(var[0, 0, 0], [16.5, 16.5, 2.75, 2.75])
    mean_square = moments.group_mean_square(TINY, num_groups=2)
    np.testing.assert_array_equal(mean_square[0, 0, 0], [52.5, 52.5, 9, 9])


def test_layer_and_pixel_by_hand():
    mean, var = moments.layer_moments(TINY)
    assert mean.shape == var.shape == (2, 1, 1, 1)
    assert mean[0, 0, 0, 0] == 4.25
    assert var[0, 0, 0, 0] == 30.75 - 4.25**2
    assert moments.layer_mean_square(TINY)[0, 0, 0, 0] == 30.75
    assert moments.pixel_mean_square(TINY)[0, 0].tolist() == [[117 / 4], [129 / 4]]


def test_batch_by_hand():
    mean, var = moments.batch_moments(TINY)
    assert mean.shape == var.shape == (1, 1, 1, 4)
    np.testing.assert_array_equal(mean[0, 0, 0], [4, 20, 2, 6])
    np.testing.assert_array_equal(var[0, 0, 0], [5, 150, 6, 4])
    np.testing.assert_array_equal(moments.batch_mean_square(TINY)[0, 0, 0], [21, 550, 10, 40])


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_variances_survive_a_large_mean(offset):
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(4, 5, 3, 8)) + offset)
    x64 = x.astype(np.float64)
    grouped = x64.reshape(4, 5, 3, 2, 4)
    expected = {
        "instance": x64.var(axis=(1, 2), keepdims=True),
        "layer": x64.var(axis=(1, 2, 3), keepdims=True),
        "batch": x64.var(axis=(0, 1, 2), keepdims=True),
        "group": np.repeat(grouped.var(axis=(1, 2, 4)), 4, axis=1)[:, None, None],
    }
    for name, reference in expected.items():
        arguments = (2,) if name == "group" else ()
        var = getattr(moments, f"{name}_moments")(x, *arguments).var
        assert var.shape == reference.shape
        np.testing.assert_allclose(var, reference, rtol=1e-6 if offset == 0 else 1e-4)


def test_a_small_spread_about_a_large_mean_is_not_negative():
    """Mean 1000 and deviation 0.1, where the one-pass formula gives negative variances."""
    x = np.float32(np.random.default_rng(0).normal(1000, 0.1, size=(8, 6, 6, 32)))
    x64 = x.astype(np.float64)
    one_pass = jnp.mean(x * x, axis=(0, 1, 2)) - jnp.mean(x, axis=(0, 1, 2)) ** 2
    assert (one_pass < 0).any()
    assert (moments.instance_moments(x).var > 0).all()
    var = moments.batch_moments(x).var[0, 0, 0]
    np.testing.assert_allclose(var, x64.var(axis=(0, 1, 2)), rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_cast_before_squaring(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(0, 300, size=(2, 8, 8, 4)), dtype)
    x64 = np.asarray(x).astype(np.float64)
    moment = moments.batch_moments(x)
    assert moment.var.dtype == jnp.float32
    np.testing.assert_allclose(moment.var[0, 0, 0], x64.var(axis=(0, 1, 2)), rtol=1e-5)
    mean_square = moments.instance_mean_square(x)[:, 0, 0]
    np.testing.assert_allclose(mean_square, (x64**2).mean(axis=(1, 2)), rtol=1e-5)


def test_virtual_batches_equal_separate_batches():
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, size=(6, 2, 3, 4)), jnp.float32)
    mean, var = moments.batch_moments(x, virtual_batch_size=2)
    mean_square = moments.batch_mean_square(x, virtual_batch_size=2)
    assert mean.shape == var.shape == mean_square.shape == (3, 1, 1, 4)
    for i in range(3):
        part = x[2 * i : 2 * i + 2]
        np.testing.assert_array_equal(mean[i], moments.batch_moments(part).mean[0])
        np.testing.assert_array_equal(var[i], moments.batch_moments(part).var[0])
        np.testing.assert_array_equal(mean_square[i], moments.batch_mean_square(part)[0])
    laid_out = over_examples(mean, 6)
    np.testing.assert_array_equal(laid_out, np.repeat(mean, 2, axis=0))


def test_one_virtual_batch_is_the_batch():
    for whole, virtual in zip(
        moments.batch_moments(TINY), moments.batch_moments(TINY, virtual_batch_size=2), strict=True
    ):
        np.testing.assert_array_equal(whole, virtual)
    assert over_examples(TINY[:1, :, :1], 2).shape == (1, 1, 1, 4)


def test_virtual_batches_need_no_gather():
    """Consecutive examples, laid out by reshapes: a gather is slow on every accelerator."""

    def standardize(x):
        mean, var = moments.batch_moments(x, virtual_batch_size=2)
        return x - over_examples(mean, 6) / over_examples(var, 6)

    assert "gather" not in str(jax.make_jaxpr(standardize)(jnp.ones((6, 2, 2, 4))))


@pytest.mark.parametrize("groups", [None, ((0, 1), (2, 3))])
def test_devices_pool_their_statistics(groups):
    """Four devices of two examples; the means differ, so the variance between them counts."""
    rng = np.random.default_rng(0)
    x = np.float32(
        rng.normal(size=(4, 2, 3, 3, 5)) + 1000 + 7 * np.arange(4)[:, None, None, None, None]
    )

    def statistics(x):
        options = {"axis_name": "batch", "axis_index_groups": groups}
        return *moments.batch_moments(x, **options), moments.batch_mean_square(x, **options)

    mean, var, mean_square = jax.pmap(statistics, axis_name="batch")(x)
    for device in range(4):
        pooled = [0, 1, 2, 3] if groups is None else groups[device // 2]
        x64 = x[list(pooled)].astype(np.float64)
        axes = (0, 1, 2, 3)
        np.testing.assert_allclose(mean[device, 0, 0, 0], x64.mean(axis=axes), rtol=1e-6)
        np.testing.assert_allclose(var[device, 0, 0, 0], x64.var(axis=axes), rtol=1e-4)
        np.testing.assert_allclose(
            mean_square[device, 0, 0, 0], (x64**2).mean(axis=axes), rtol=1e-6
        )


def test_virtual_batch_must_divide():
    with pytest.raises(UserError, match="virtual_batch_size=4 must divide the 6 examples"):
        moments.batch_moments(jnp.ones((6, 1, 1, 1)), virtual_batch_size=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"virtual_batch_size": 2, "axis_name": "batch"}, "give one of the two"),
        ({"axis_index_groups": ((0, 1),)}, "needs axis_name"),
        ({"virtual_batch_size": 0}, "at least 1"),
    ],
)
def test_contradictions(options, message):
    for reduction in (moments.batch_moments, moments.batch_mean_square):
        with pytest.raises(UserError, match=message):
            reduction(TINY, **options)
