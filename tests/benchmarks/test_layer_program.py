"""What is timed is the whole forward and backward pass, and its memory is counted right."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from evonorm_jax.benchmarks import layer_program, rivals
from evonorm_jax.norm_act import norm_act


class Square(nn.Module):
    """scale x^2."""

    @nn.compact
    def __call__(self, x):
        return self.param("scale", nn.initializers.ones, (x.shape[-1],)) * x**2


def test_the_program_returns_output_and_all_gradients():
    inputs = layer_program.make_inputs((2, 3, 3, 4), "float32")
    y, statistics, (dx, dparams) = layer_program.compile_layer(Square(), inputs).call()
    x, dy = np.asarray(inputs.x), np.asarray(inputs.dy)
    np.testing.assert_allclose(y, x**2, rtol=1e-6)
    np.testing.assert_allclose(dx, 2 * x * dy, rtol=1e-6)
    np.testing.assert_allclose(dparams["scale"], (dy * x**2).sum((0, 1, 2)), rtol=1e-4)
    assert not jax.tree.leaves(statistics)


def test_batch_statistics_are_part_of_the_program():
    inputs = layer_program.make_inputs((2, 3, 3, 4), "float32")
    layer = norm_act("evonorm_b0")(use_running_average=False)
    _, updates, _ = layer_program.compile_layer(layer, inputs).call()
    batch_var = np.asarray(inputs.x).var((0, 1, 2))
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * batch_var, rtol=1e-5)


def test_residuals_by_hand():
    x = jnp.ones((4, 8))
    count = layer_program.residual_bytes
    assert count(lambda x: (2 * x, ()), x) == 0
    assert count(lambda x: (jnp.sin(x), ()), x) == x.nbytes  # its cosine
    assert count(lambda x: (jnp.exp(x), ()), x.astype(jnp.bfloat16)) == x.nbytes // 2  # itself
    assert count(lambda x, y: (x * y, ()), x, x) == 2 * x.nbytes
    # sin(x) and cos(x) once each, although both products keep them.
    assert count(lambda x: (jnp.sin(x) * jnp.cos(x), ()), x) <= 4 * x.nbytes


def test_the_same_inputs_for_everyone_with_the_wanted_dtype():
    first, again = (layer_program.make_inputs((2, 2, 2, 4), "bfloat16") for _ in range(2))
    assert first.x.dtype == first.dy.dtype == jnp.bfloat16
    np.testing.assert_array_equal(first.x, again.x)
    assert not np.array_equal(first.x, first.dy)


def test_a_copy_moves_all_of_x():
    inputs = layer_program.make_inputs((2, 2, 2, 4), "float32")
    np.testing.assert_array_equal(layer_program.compile_copy(inputs)(), -np.asarray(inputs.x))


def test_rivals_compute_the_same_function():
    """Otherwise a ratio of times says nothing."""
    inputs = layer_program.make_inputs((4, 3, 3, 64), "float32")
    for name, rival in (
        ("bn_relu", rivals.FlaxBatchNormReLU),
        ("gn_relu", rivals.FlaxGroupNormReLU),
    ):
        ours, theirs = (
            layer_program.compile_layer(factory(use_running_average=False), inputs).call()
            for factory in (norm_act(name), rival)
        )
        np.testing.assert_allclose(ours[0], theirs[0], rtol=2e-5, atol=2e-6, err_msg=name)
        np.testing.assert_allclose(ours[2][0], theirs[2][0], rtol=2e-4, atol=2e-5, err_msg=name)
