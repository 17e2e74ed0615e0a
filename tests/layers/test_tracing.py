"""Layers under JAX's strictest rules of shapes, and for shapes that are not known yet.

Nothing is compiled here: the errors come up while a program is traced and written.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import export

from evonorm_jax import norm_act, norm_act_names
from evonorm_jax.layers import BatchDependentLayer, FusedLayer


def layer_and_variables(name, **fields):
    layer = norm_act(name, **fields)()
    init = functools.partial(layer.init, use_running_average=True)
    return layer, jax.eval_shape(init, jax.random.key(0), jnp.ones((1, 4, 4, 8)))


def value_and_gradients(layer, use_running_average):
    """A function of variables and x: a sum of the output, the new statistics, all gradients."""

    def total(variables, x, **operands):
        y, updates = layer.apply(
            variables, x, use_running_average, **operands, mutable=["batch_stats"]
        )
        return jnp.sum(y), updates

    return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)


def implementations(name):
    """Fields that make the layer compute in each of its ways."""
    factory = norm_act(name)
    ways = [{}]
    if issubclass(factory.func, FusedLayer):
        ways.append({"implementation": "reference"})
    if issubclass(factory.func, BatchDependentLayer):
        ways.append({"virtual_batch_size": 2})
    return ways


def test_the_rule_is_in_force():
    with jax.numpy_rank_promotion("raise"), pytest.raises(ValueError, match="rank_promotion"):
        jax.eval_shape(jnp.add, jnp.ones((2, 3)), jnp.ones(3))


@pytest.mark.parametrize("name", norm_act_names())
@jax.numpy_rank_promotion("raise")
def test_no_layer_leaves_axes_to_be_guessed(name):
    x = jax.ShapeDtypeStruct((4, 4, 4, 8), jnp.float32)
    for way in implementations(name):
        for nonlinearity in (True, False):
            layer, variables = layer_and_variables(name, nonlinearity=nonlinearity, **way)
            for use_running_average in (True, False):
                program = value_and_gradients(layer, use_running_average)
                (_, updates), gradients = jax.eval_shape(program, variables, x)
                assert updates == {k: v for k, v in variables.items() if k == "batch_stats"}
                assert gradients == (variables, x)


@pytest.mark.parametrize("rows", [(), (4,)])
@jax.numpy_rank_promotion("raise")
def test_nor_does_a_conditional_layer(rows):
    x = jax.ShapeDtypeStruct((4, 4, 4, 8), jnp.bfloat16)
    for name in ("pixel_norm_relu", "evonorm_s0"):
        layer, variables = layer_and_variables(name)
        scale = jax.ShapeDtypeStruct((*rows, 8), jnp.float32)
        (_, _), (_, dx) = jax.eval_shape(
            value_and_gradients(layer, False), variables, x, scale=scale, bias=scale
        )
        assert dx == x


@pytest.mark.parametrize("name", norm_act_names())
def test_a_training_program_for_every_size(name):
    layer, variables = layer_and_variables(name)
    x = jax.ShapeDtypeStruct(export.symbolic_shape("n, h, w, 8"), jnp.float32)
    program = jax.jit(value_and_gradients(layer, False))
    exported = export.export(program, platforms=("cpu", "cuda", "tpu"))(variables, x)
    *_, dx = exported.out_avals
    assert dx.shape == x.shape
