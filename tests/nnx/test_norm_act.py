"""Names, classes and partials to factories of NNX modules; what importing costs."""

import functools
import subprocess
import sys

import jax.numpy as jnp
import pytest
from flax import nnx

import evonorm_jax
import evonorm_jax.nnx as evonorm_nnx
from evonorm_jax.errors import UserError
from evonorm_jax.layers import LayerDefinition
from evonorm_jax.nnx import norm_act, norm_act_names


def test_every_name_has_a_class_that_is_exported():
    assert norm_act_names() == evonorm_jax.norm_act_names()
    exported = {getattr(evonorm_nnx, name) for name in evonorm_nnx.__all__}
    concrete = {
        value
        for value in exported
        if isinstance(value, type) and issubclass(value, LayerDefinition)
    }
    assert {norm_act(name).func for name in norm_act_names()} == concrete - {
        evonorm_nnx.NormActLayer
    }
    for name in norm_act_names():
        assert norm_act(name).func.__name__ == evonorm_jax.norm_act(name).func.__name__


def test_name_class_and_partial_give_the_same_layer():
    for layer in (
        "evonorm_s0",
        evonorm_nnx.EvoNormS0,
        functools.partial(evonorm_nnx.EvoNormS0, epsilon=7.0),
        norm_act("evonorm_s0", epsilon=7.0),
    ):
        made = norm_act(layer, num_groups=4, epsilon=1e-3)(8, rngs=nnx.Rngs(0))
        assert (type(made), made.num_groups) == (evonorm_nnx.EvoNormS0, 4)
        assert made.epsilon == 1e-3


def test_a_layer_of_the_users_own():
    class Half(LayerDefinition):
        def _normalize(self, x, params, statistics):
            return x / 2

    class HalfLayer(Half, evonorm_nnx.NormActLayer):
        pass

    layer = norm_act(HalfLayer, dtype=jnp.float16)(3, rngs=nnx.Rngs(0))
    assert (layer(jnp.ones((1, 1, 1, 3))) == 0.5).all()


def test_mistakes():
    with pytest.raises(UserError, match=r"unknown layer 'evonorm_so'\. Did you mean evonorm_s2\?"):
        norm_act("evonorm_so")
    with pytest.raises(UserError, match="unknown field of EvoNormS0 'groups'"):
        norm_act("evonorm_s0", groups=4)
    with pytest.raises(UserError, match="unknown field of EvoNormS0 'num_features'"):
        norm_act("evonorm_s0", num_features=4)
    with pytest.raises(UserError, match=r"epsilon='x' of EvoNormS0: expected float"):
        norm_act("evonorm_s0", epsilon="x")
    with pytest.raises(UserError, match="unknown field of GraphLayer 'momentum'"):
        norm_act("graph:n4 = tanh(x)", momentum=0.9)
    for layer in (evonorm_jax.EvoNormS0, None, evonorm_nnx.EvoNormS0(4, rngs=nnx.Rngs(0))):
        with pytest.raises(UserError, match=r"as a flax\.nnx\.Module class"):
            norm_act(layer)


def test_nnx_is_imported_when_it_is_asked_for():
    program = (
        "import sys, evonorm_jax\n"
        "before = {'flax.nnx', 'evonorm_jax.nnx'} & set(sys.modules)\n"
        "print(before, evonorm_jax.nnx.EvoNormS0.__name__, 'nnx' in dir(evonorm_jax))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set() EvoNormS0 True\n"
