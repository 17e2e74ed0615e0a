"""Padding that depends on the kernel alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from evonorm_jax.models.convolution import (
    TransposedConv,
    avg_pool,
    conv2d,
    conv_kernel_init,
    max_pool,
    upsample_nearest,
)


def test_strided_convolution_pads_both_sides_alike():
    images = jnp.ones((1, 4, 4, 1))
    variables = {"params": {"kernel": jnp.ones((3, 3, 1, 1))}}
    y = conv2d(1, 3, strides=2).apply(variables, images)
    # Windows centred on rows and columns 0 and 2; "SAME" would centre them on 1 and 3.
    np.testing.assert_array_equal(y[0, :, :, 0], [[4, 6], [6, 9]])


def test_same_pads_an_even_image_on_its_far_side():
    images = jnp.ones((1, 4, 4, 1))
    variables = {"params": {"kernel": jnp.ones((3, 3, 1, 1))}}
    y = conv2d(1, 3, strides=2, padding="same").apply(variables, images)
    np.testing.assert_array_equal(y[0, :, :, 0], [[9, 6], [6, 4]])


@pytest.mark.parametrize("strides", [1, 2])
def test_pointwise_convolution_and_its_gradients(strides):
    """The matrix product of a CPU against XLA's convolution."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 6))
    kernel = jax.random.normal(jax.random.key(1), (1, 1, 6, 3))
    module = conv2d(3, 1, strides)

    def xla(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (strides,) * 2, "VALID", dimension_numbers=numbers
        )

    ours, pull = jax.vjp(
        lambda x, kernel: module.apply({"params": {"kernel": kernel}}, x), x, kernel
    )
    theirs, their_pull = jax.vjp(xla, x, kernel)
    for our, their in zip((ours, *pull(ours)), (theirs, *their_pull(theirs)), strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-5, atol=1e-5)


def test_pointwise_convolution_is_a_matrix_product_on_cpu_alone():
    x = jnp.ones((2, 5, 4, 6))
    variables = {"params": {"kernel": jnp.ones((1, 1, 6, 3))}}
    traced = jax.jit(conv2d(3, 1).apply).trace(variables, x)
    found = {
        platform: "stablehlo.convolution" in traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda", "tpu")
    }
    assert found == {"cpu": False, "cuda": True, "tpu": True}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transposed_convolution_and_its_gradients(dtype):
    """Against the gradient of XLA's convolution of the same kernel, which is its transpose."""
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5), dtype)
    params = {
        "kernel": jax.random.normal(jax.random.key(1), (2, 2, 5, 6)),
        "bias": jax.random.normal(jax.random.key(2), (6,)),
    }

    def ours(x, params):
        return TransposedConv(6, dtype=dtype).apply({"params": params}, x).astype(jnp.float32)

    def theirs(x, params):
        def forward(y):
            kernel = jnp.swapaxes(params["kernel"], 2, 3)  # from 6 channels to 5
            numbers = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(y, kernel, (2, 2), "VALID", dimension_numbers=numbers)

        (y,) = jax.linear_transpose(forward, jnp.zeros((2, 6, 8, 6)))(x.astype(jnp.float32))
        return y + params["bias"]

    def everything(function, x, params):
        y, pull = jax.vjp(function, x, params)
        return y, pull(jnp.sin(y))

    result, expected = (
        jax.jit(everything, static_argnums=0)(function, x, params) for function in (ours, theirs)
    )
    # bfloat16 keeps 8 bits, of the terms of a sum as of their total.
    tolerance = {"float32": 1e-5, "bfloat16": 0.03}[dtype]
    for leaf, wanted in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        leaf, wanted = (np.asarray(array, np.float32) for array in (leaf, wanted))
        np.testing.assert_allclose(leaf, wanted, atol=tolerance * np.abs(wanted).max())


def test_upsample_nearest():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    expected = np.kron(np.arange(4.0).reshape(2, 2), np.ones((3, 3)))
    np.testing.assert_array_equal(upsample_nearest(x, 3)[0, :, :, 0], expected)


def test_bias_where_it_is_asked_for():
    x = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    for use_bias in (False, True):
        variables = jax.eval_shape(conv2d(5, 3, use_bias=use_bias).init, jax.random.key(0), x)
        assert ("bias" in variables["params"]) == use_bias


def test_max_pool_pads_both_sides_alike():
    images = jnp.arange(16.0).reshape(1, 4, 4, 1)
    y = max_pool(images, window=3, strides=2)
    np.testing.assert_array_equal(y[0, :, :, 0], [[5, 7], [13, 15]])


def test_max_pool_never_returns_its_padding():
    y = max_pool(jnp.full((1, 5, 4, 2), -7.0), window=3, strides=2)
    np.testing.assert_array_equal(y, jnp.full((1, 3, 2, 2), -7.0))


def test_avg_pool_divides_by_what_a_window_holds():
    images = jnp.arange(15.0).reshape(1, 3, 5, 1)
    # Windows of 2x2, the last column 2x1, the last row 1x2 and the corner alone.
    expected = [[3, 5, 6.5], [10.5, 12.5, 14]]
    np.testing.assert_array_equal(avg_pool(images, 2)[0, :, :, 0], expected)
    np.testing.assert_array_equal(avg_pool(images[:, :2, :4], 2)[0, :, :, 0], [[3, 5]])
    np.testing.assert_array_equal(avg_pool(images[:, :1, :1], 2), images[:, :1, :1])


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 224, 225])
@pytest.mark.parametrize(("kernel_size", "strides"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_output_is_as_wide_as_the_input_over_the_stride(size, kernel_size, strides, padding):
    images = jax.ShapeDtypeStruct((1, size, size + 1, 3), jnp.float32)
    conv = conv2d(5, kernel_size, strides, padding=padding)
    y, _ = jax.eval_shape(conv.init_with_output, jax.random.key(0), images)
    assert y.shape == (1, -(-size // strides), -(-(size + 1) // strides), 5)


def test_kernel_variance_is_one_over_fan_in():
    kernel = conv_kernel_init(jax.random.key(0), (3, 3, 64, 96))
    fan_in = 3 * 3 * 64
    # 55,296 draws: the standard error of the standard deviation is 0.3%.
    np.testing.assert_allclose(kernel.std(), fan_in**-0.5, rtol=0.015)
    # A normal truncated at 2 has standard deviation 0.8796, hence a bound of 2 / 0.8796 = 2.27.
    assert 2.2 < float(jnp.abs(kernel).max()) * fan_in**0.5 < 2.28
