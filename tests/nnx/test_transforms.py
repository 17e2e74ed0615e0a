"""The NNX modules under NNX's and JAX's transformations, and on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from evonorm_jax.nnx import EvoNormB0, EvoNormS0
from tests.layers.deviations import make_case

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = (8, 3, 2, 8)


class Network(nnx.Module):
    """A linear map of each pixel, and a layer of each kind."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 8, rngs=rngs)
        self.first = EvoNormB0(8, rngs=rngs)
        self.second = EvoNormS0(8, num_groups=2, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        x = self.second(self.first(self.linear(x)))
        return self.head(x.mean(axis=(1, 2)))


def loss_of(model, images):
    return jnp.mean(model(images) ** 2)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (8, 4, 4, 3))


@nnx.jit
def step(model, images):
    return nnx.value_and_grad(loss_of)(model, images)


@pytest.fixture(scope="module")
def stepped(images):
    """A network after a compiled step, with the loss and the gradients."""
    model = Network(nnx.Rngs(0))
    return model, *step(model, images)


def test_a_compiled_step(images, stepped):
    model, loss, gradients = stepped
    plain = Network(nnx.Rngs(0))
    np.testing.assert_allclose(loss, loss_of(plain, images), rtol=1e-5)
    np.testing.assert_allclose(model.first.var[...], plain.first.var[...], rtol=1e-5)
    assert (model.first.var[...] != 1).all()
    gradients = nnx.to_pure_dict(gradients)
    assert set(gradients["first"]) == {"scale", "bias", "v"}
    # The bias of S0 reaches the loss through the mean over the map and the head alone.
    by_logits = jax.grad(lambda logits: jnp.mean(logits**2))(plain(images))
    expected = by_logits.sum(axis=0) @ model.head.kernel[...].T
    np.testing.assert_allclose(gradients["second"]["bias"], expected, rtol=1e-4, atol=1e-6)


def test_evaluation_leaves_the_statistics(images, stepped):
    model = nnx.clone(stepped[0])
    model.eval()
    before = model.first.var[...]
    nnx.jit(lambda model, images: model(images))(model, images)
    assert (model.first.var[...] == before).all()


def test_split_and_merge(images):
    model = Network(nnx.Rngs(0))
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    assert set(nnx.to_pure_dict(stats)) == {"first"}
    assert hash(graphdef) == hash(nnx.graphdef(Network(nnx.Rngs(1))))
    again = nnx.merge(graphdef, params, stats)
    np.testing.assert_array_equal(again(images), model(images))
    np.testing.assert_array_equal(again.first.var[...], model.first.var[...])


def test_scan_over_stacked_layers():
    """Three layers with their own parameters and statistics, as one program and one by one."""
    x = make_case("evonorm_b0", shape=SHAPE).x

    def random_init(key, shape, dtype):
        return 1 + 0.1 * jax.random.normal(key, shape, dtype)

    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def make(rngs):
        return EvoNormB0(8, scale_init=random_init, rngs=rngs)

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def forward(x, layer):
        return layer(x)

    stacked = make(nnx.Rngs(0))
    assert stacked.var.shape == (3, 8)
    assert len(np.unique(stacked.scale[...])) == 24
    graphdef, state = nnx.split(stacked)

    def layer_at(i):
        return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[i], state))

    layers = [layer_at(i) for i in range(3)]
    got, expected = forward(x, stacked), x
    for layer in layers:
        expected = layer(expected)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    for i, layer in enumerate(layers):
        np.testing.assert_allclose(stacked.var[i], layer.var[...], rtol=1e-5)


def test_a_sharded_batch_is_one_batch(images, stepped):
    """Under `jit` with a batch over eight devices the statistics are those of the whole batch."""
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    model = Network(nnx.Rngs(0))
    replicated = NamedSharding(mesh, PartitionSpec())
    nnx.update(model, jax.device_put(nnx.state(model), replicated))
    sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    loss, gradients = step(model, sharded)
    one, expected_loss, expected = stepped
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
    jax.tree.map(close, nnx.to_pure_dict(gradients), nnx.to_pure_dict(expected))
    np.testing.assert_allclose(model.first.var[...], one.first.var[...], rtol=1e-5)


@pytest.mark.parametrize("groups", [None, [[0, 1], [2, 3]]])
def test_devices_that_pool_equal_one_device(groups):
    """Four devices of two images against one with them all, or with two virtual batches."""
    x = make_case("evonorm_b0", shape=SHAPE).x
    one = EvoNormB0(8, virtual_batch_size=None if groups is None else 4, rngs=nnx.Rngs(0))
    layer = EvoNormB0(8, axis_name="batch", axis_index_groups=groups, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(layer)

    def per_device(state, x):
        layer = nnx.merge(graphdef, state)
        return layer(x), layer.var[...]

    split = x.reshape(4, 2, *SHAPE[1:])
    y, var = jax.pmap(per_device, axis_name="batch", in_axes=(None, 0))(state, split)
    np.testing.assert_allclose(y.reshape(SHAPE), one(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var.mean(axis=0), one.var[...], rtol=1e-5)
    hash(graphdef)  # `nnx.jit` needs it, also where lists were given


def test_partitioned_parameters():
    """Initializers may carry a sharding, as in Flax's own layers."""
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    init = nnx.with_partitioning(nnx.initializers.ones_init(), ("model",))
    with jax.set_mesh(mesh):
        layer = EvoNormS0(8, scale_init=init, rngs=nnx.Rngs(0))
    expected = NamedSharding(mesh, PartitionSpec("model"))
    assert layer.scale[...].sharding.is_equivalent_to(expected, 1)
