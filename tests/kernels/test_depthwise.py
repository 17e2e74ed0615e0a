"""Depthwise convolution: by hand, and both forms against XLA's grouped convolution."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from evonorm_jax.errors import UserError
from evonorm_jax.kernels.depthwise import Window, depthwise_conv, grouped, shifted
from evonorm_jax.models.convolution import pad_widths

EPSILON = {"float32": 2.0**-24, "bfloat16": 2.0**-8}


def draw(shape, kernel_size, dtype="float32"):
    rng = np.random.default_rng(0)
    kernel_shape = (kernel_size, kernel_size, 1, shape[-1])
    return tuple(jnp.asarray(rng.normal(size=size), dtype) for size in (shape, kernel_shape))


@functools.partial(jax.jit, static_argnames=("strides", "padding"))  # one compilation, not k * k
def convolve(x, kernel, strides=1, padding="symmetric"):
    top, left = (pad_widths(padding, len(kernel), strides, size) for size in x.shape[1:3])
    return depthwise_conv(x, kernel, strides=strides, pads=(top, left))


def xla(x, kernel, *, strides, padding):
    """Written here once more, with XLA's own reading of "same"."""
    pads = [((len(kernel) - 1) // 2,) * 2] * 2 if padding == "symmetric" else "SAME"
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(function, x, kernel):
    y, pull = jax.vjp(function, x, kernel)
    # No symmetry may hide a transposed or mirrored filter. Values of bfloat16, so that both dtypes
    # are given the same ones.
    dy = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(jnp.bfloat16)
    return y, *pull(dy.astype(y.dtype))


def test_stride_1_by_hand():
    image = jnp.array([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]
    kernel = jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1)
    # Top left: the window sees 1 2 / 3 4 under the taps 5 6 / 8 9.
    expected = [
        [5 * 1 + 6 * 2 + 8 * 3 + 9 * 4, 4 * 1 + 5 * 2 + 7 * 3 + 8 * 4],
        [2 * 1 + 3 * 2 + 5 * 3 + 6 * 4, 1 * 1 + 2 * 2 + 4 * 3 + 5 * 4],
    ]
    np.testing.assert_array_equal(convolve(image, kernel)[0, :, :, 0], expected)


def test_stride_2_by_hand_depends_on_the_padding():
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    centre = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    # The middle of the windows: rows and columns 0 and 2, with "same" 1 and 3.
    symmetric = convolve(image, centre, strides=2)
    np.testing.assert_array_equal(symmetric[0, :, :, 0], [[0, 2], [8, 10]])
    same = convolve(image, centre, strides=2, padding="same")
    np.testing.assert_array_equal(same[0, :, :, 0], [[5, 7], [13, 15]])


def test_channels_do_not_mix():
    x, kernel = draw((2, 5, 6, 3), 3)
    alone = [convolve(x[..., c : c + 1], kernel[..., c : c + 1]) for c in range(3)]
    np.testing.assert_allclose(
        convolve(x, kernel), jnp.concatenate(alone, axis=-1), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("kernel_size", "strides", "padding", "size"),
    [
        (3, 1, "symmetric", (7, 8)),
        (3, 2, "symmetric", (7, 8)),
        (3, 2, "same", (8, 7)),
        (5, 1, "same", (6, 9)),
        (5, 2, "symmetric", (9, 6)),
        (5, 2, "same", (14, 11)),
        (5, 2, "same", (3, 2)),  # the filter is larger than the image
        (3, 2, "symmetric", (1, 1)),
        (1, 2, "symmetric", (4, 5)),  # pixels that no window reaches
        (3, 3, "symmetric", (10, 8)),
    ],
)
def test_equals_the_grouped_convolution(kernel_size, strides, padding, size):
    x, kernel = draw((2, *size, 5), kernel_size)
    options = {"strides": strides, "padding": padding}
    ours = value_and_gradients(functools.partial(convolve, **options), x, kernel)
    theirs = value_and_gradients(functools.partial(xla, **options), x, kernel)
    for name, our, their in zip(("y", "dx", "dkernel"), ours, theirs, strict=True):
        # Sums of at most 2 * 14 * 11 products of about 1: float32 keeps 7 digits of them.
        np.testing.assert_allclose(our, their, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_bfloat16_is_rounded_once(kernel_size, strides):
    x, kernel = draw((2, 9, 8, 4), kernel_size, "bfloat16")
    strided = functools.partial(convolve, strides=strides)
    ours = value_and_gradients(strided, x, kernel)
    exact = value_and_gradients(strided, x.astype("float32"), kernel.astype("float32"))
    for our, reference in zip(ours, exact, strict=True):
        assert our.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            our.astype("float32"), reference, rtol=EPSILON["bfloat16"], atol=1e-4
        )


def test_second_derivative_against_the_grouped_convolution():
    x, kernel = draw((1, 5, 5, 2), 3)

    def squared_gradient(function, kernel):
        gradient = jax.grad(lambda x: jnp.sum(jnp.tanh(function(x, kernel, strides=2))))(x)
        return jnp.sum(gradient**2)

    ours, theirs = (
        jax.jit(jax.grad(functools.partial(squared_gradient, function)))(kernel)
        for function in (convolve, functools.partial(xla, padding="symmetric"))
    )
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_each_platform_has_its_form():
    x, kernel = draw((2, 6, 6, 4), 3)
    traced = value_and_gradients.trace(convolve, x, kernel)
    programs = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda", "rocm", "tpu")
    }
    convolutions = {name: text.count("stablehlo.convolution") for name, text in programs.items()}
    assert convolutions["cpu"] == 0
    assert convolutions["cuda"] == convolutions["rocm"] == convolutions["tpu"] == 3


def test_both_forms_alike():
    """The one that this machine does not lower, too."""
    x, kernel = draw((2, 7, 6, 3), 5)
    window = Window(2, ((2, 2), (1, 2)))
    ours, theirs = (
        jax.jit(functools.partial(form, window))(x, kernel) for form in (shifted, grouped)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3, 1, 5), (3, 5, 1, 4), (2, 2, 1, 4)])
def test_kernels_that_are_refused(shape):
    message = rf"is \[k, k, 1, 4\] with odd k, not {re.escape(str(shape))}"
    with pytest.raises(UserError, match=message):
        depthwise_conv(jnp.ones((1, 6, 6, 4)), jnp.ones(shape), strides=1, pads=((1, 1), (1, 1)))
