"""The module around the depthwise convolution; `tests/kernels` has its arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.models import DepthwiseConv


def test_module():
    x = jax.random.normal(jax.random.key(0), (2, 6, 5, 512))
    module = DepthwiseConv(5, strides=2, dtype=jnp.bfloat16)
    y, variables = module.init_with_output(jax.random.key(1), x)
    assert y.shape == (2, 3, 3, 512)
    assert y.dtype == jnp.bfloat16
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (5, 5, 1, 512)
    assert kernel.dtype == jnp.float32
    # 12,800 draws: the standard error of the standard deviation is 0.6%.
    np.testing.assert_allclose(kernel.std(), (2 / 25) ** 0.5, rtol=0.03)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel_size": 2}, r"is \[k, k, 1, 4\] with odd k, not \(2, 2, 1, 4\)"),
        (
            {"kernel_size": 3, "padding": "valid"},
            "padding='valid': expected one of symmetric, same",
        ),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(UserError, match=message):
        DepthwiseConv(**fields).init(jax.random.key(0), jnp.ones((1, 6, 6, 4)))


@pytest.mark.parametrize(("padding", "corner"), [("symmetric", 0.0), ("same", 5.0)])
def test_padding_of_an_even_image(padding, corner):
    """A filter that keeps the middle of its window: pixel (0, 0), with "same" pixel (1, 1)."""
    module = DepthwiseConv(3, strides=2, padding=padding)
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    y = module.apply({"params": {"kernel": kernel}}, jnp.arange(16.0).reshape(1, 4, 4, 1))
    assert y.shape == (1, 2, 2, 1)
    assert y[0, 0, 0, 0] == corner
