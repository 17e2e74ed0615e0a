"""Linen variables into NNX modules and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from evonorm_jax import EvoNormB0, EvoNormS0
from evonorm_jax import nnx as evonorm_nnx
from evonorm_jax.errors import UserError
from evonorm_jax.nnx import load_linen_variables, to_linen_variables


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = EvoNormB0(name="first")(nn.Dense(8, name="linear")(x), not train)
        return EvoNormS0(name="second")(x)


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 8, rngs=rngs)
        self.first = evonorm_nnx.EvoNormB0(8, rngs=rngs)
        self.second = evonorm_nnx.EvoNormS0(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)  # has state that Linen keeps elsewhere

    def __call__(self, x):
        return self.second(self.first(self.linear(x)))


@pytest.fixture(scope="module")
def trained():
    """Variables after a step, and the input."""
    x = jax.random.normal(jax.random.key(0), (4, 2, 2, 3))
    block = LinenBlock()
    variables = block.init(jax.random.key(1), x, True)
    _, updates = block.apply(variables, x, True, mutable=["batch_stats"])
    return variables | updates, x


def test_there_and_back(trained):
    variables, x = trained
    block = NNXBlock(nnx.Rngs(5))
    load_linen_variables(block, variables)
    block.eval()
    np.testing.assert_array_equal(block(x), LinenBlock().apply(variables, x, False))
    again = to_linen_variables(block)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_numpy_arrays_and_boxed_parameters(trained):
    variables, _ = trained
    arrays = jax.tree.map(np.asarray, variables)
    arrays["params"]["first"]["v"] = nn.Partitioned(arrays["params"]["first"]["v"], (None,))
    block = NNXBlock(nnx.Rngs(5))
    load_linen_variables(block, arrays)
    assert isinstance(block.first.v[...], jax.Array)
    jax.tree.map(np.testing.assert_array_equal, to_linen_variables(block), variables)


def without(tree, *path):
    *rest, last = path
    copy = jax.tree.map(lambda leaf: leaf, tree)
    inner = copy
    for name in rest:
        inner = inner[name]
    del inner[last]
    return copy


def test_what_does_not_fit_is_named(trained):
    variables, _ = trained
    block = NNXBlock(nnx.Rngs(5))
    before = to_linen_variables(block)
    wrong_shape = jax.tree.map(lambda leaf: leaf, variables)
    wrong_shape["params"]["first"]["v"] = jnp.ones(4)
    wrong_dtype = jax.tree.map(lambda leaf: leaf, variables)
    wrong_dtype["params"]["second"]["v"] = jnp.ones(8, jnp.bfloat16)
    for given, message in [
        (without(variables, "batch_stats"), "those of NNXBlock: batch_stats/first/var is missing"),
        (without(variables, "params", "linear", "bias"), "params/linear/bias is missing"),
        (variables | {"spectral": {"u": jnp.ones(1)}}, "spectral/u has no place in the module"),
        (wrong_shape, r"params/first/v is float32\[4\], not float32\[8\]"),
        (wrong_dtype, r"params/second/v is bfloat16\[8\], not float32\[8\]"),
        ({}, r"is missing; .* \(and 4 more\)\. Give the modules inside it the names"),
    ]:
        with pytest.raises(UserError, match=message):
            load_linen_variables(block, given)
    jax.tree.map(np.testing.assert_array_equal, to_linen_variables(block), before)
