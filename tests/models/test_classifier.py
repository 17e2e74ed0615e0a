"""The head and the checks that every classifier shares."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from evonorm_jax.errors import UserError
from evonorm_jax.models.classifier import check_images, classifier_head


class Head(nn.Module):
    num_classes: int
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        return classifier_head(
            x, num_classes=self.num_classes, dropout_rate=self.dropout_rate, train=train
        )


def test_head_by_hand():
    x = jnp.array([[[[1.0, 2.0]], [[3.0, 6.0]]]])  # [1, 2, 1, 2], means 2 and 4
    kernel = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    bias = jnp.array([0.0, 0.0, 0.5])
    logits = Head(3).apply({"params": {"head": {"kernel": kernel, "bias": bias}}}, x)
    np.testing.assert_array_equal(logits, [[2.0, 4.0, 6.5]])


def test_head_pools_bfloat16_in_float32():
    # 1024 ones and one 256: the mean is 1280 / 1025, and a bfloat16 sum would stop at 256.
    x = jnp.ones((1, 1, 1025, 1), jnp.bfloat16).at[0, 0, 0, 0].set(256)
    variables = {"params": {"head": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}}
    logits = Head(1).apply(variables, x)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, [[1280 / 1025]], rtol=1e-6)


def test_head_initialisation():
    params = Head(512).init(jax.random.key(0), jnp.ones((1, 1, 1, 256)))["params"]["head"]
    np.testing.assert_allclose(params["kernel"].std(), 0.01, rtol=0.02)
    np.testing.assert_array_equal(params["bias"], 0)


def test_dropout_acts_in_training_alone():
    head = Head(4, dropout_rate=0.5)
    x = jax.random.normal(jax.random.key(1), (3, 2, 2, 64))
    variables = head.init(jax.random.key(0), x)
    train = functools.partial(head.apply, variables, x, train=True)
    first = train(rngs={"dropout": jax.random.key(2)})
    again = train(rngs={"dropout": jax.random.key(2)})
    other = train(rngs={"dropout": jax.random.key(3)})
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    np.testing.assert_array_equal(head.apply(variables, x), Head(4).apply(variables, x))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((32, 32, 3), "float32", r"\(32, 32, 3\): expected \[N, H, W, C\]; add a batch axis"),
        ((2, 0, 32, 3), "float32", "H, W and C must be at least 1"),
        ((2, 32, 32, 3), "uint8", "dtype uint8: expected floating-point values, normalised"),
        ((2, 3, 32, 32), "float32", r"looks like \[N, C, H, W\].*transpose\(0, 2, 3, 1\)"),
        ((2, 32, 32, 1), "float32", "1 channels last, but the parameters were initialised for 3"),
    ],
)
def test_images_refused(shape, dtype, message):
    images = jax.ShapeDtypeStruct(shape, dtype)
    # The stem comes in only for the channel count; the other rules hold before there is one.
    stem = {"kernel": jax.ShapeDtypeStruct((3, 3, 3, 8), "float32")}
    with pytest.raises(UserError, match=message):
        check_images(images, stem if "initialised" in message else None)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 8, 8, 1), (0, 32, 31, 3), (2, 4, 4, 13)])
def test_images_accepted(shape):
    assert check_images(jax.ShapeDtypeStruct(shape, "bfloat16")) is None
