"""Noise, standing statistics, and images from a generator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.gan import create_gan
from evonorm_jax.gan.images import to_uint8
from evonorm_jax.gan.sampling import (
    Sampler,
    averaged_variables,
    draw_inputs,
    draw_noise,
    with_standing_statistics,
)
from evonorm_jax.norm_act import norm_act

pytestmark = pytest.mark.usefixtures("quick_compilation")


def make_gan(layer="bn_relu"):
    return create_gan(
        *("biggan_deep_8", 3, layer), num_filters=4, z_dim=4, embedding_dim=4, image_channels=1
    )


@pytest.fixture(scope="module")
def setup():
    gan = make_gan()
    return gan, gan.init(jax.random.key(0))[0]


def test_noise_depends_on_its_key_alone():
    keys = jax.random.split(jax.random.key(0), 6)
    z, labels = draw_inputs(keys, make_gan())
    assert len(np.unique(z, axis=0)) == 6
    part_z, part_labels = draw_inputs(keys[2:4], make_gan())
    np.testing.assert_array_equal(part_z, z[2:4])
    np.testing.assert_array_equal(part_labels, labels[2:4])


def test_classes_are_uniform():
    _, labels = draw_inputs(jax.random.split(jax.random.key(0), 3000), make_gan())
    np.testing.assert_allclose(np.bincount(labels, minlength=3), 1000, atol=4 * 26)  # 4 sigma


def test_truncated_noise_is_a_cut_normal_times_the_truncation():
    keys = jax.random.split(jax.random.key(0), 5000)
    cut = np.asarray(draw_noise(keys, 4, 1.0))
    assert 1.95 < np.abs(cut).max() <= 2
    # Standard deviation of a normal distribution cut at 2: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
    assert cut.std() == pytest.approx(0.8796, abs=0.01)
    np.testing.assert_allclose(draw_noise(keys, 4, 0.5), 0.5 * cut, rtol=1e-6)
    assert np.std(draw_noise(keys, 4)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("truncation", [0.0, -1.0, 1.5, float("nan")])
def test_impossible_truncations(truncation):
    with pytest.raises(UserError, match="must be above 0 and at most 1"):
        draw_noise(jax.random.split(jax.random.key(0), 2), 4, truncation)


def test_standing_statistics_of_the_first_layer_by_hand(setup):
    """It normalises what the linear layer makes of noise and class."""
    gan, variables = setup
    key, passes, size = jax.random.key(3), 3, 8
    found = jax.jit(
        lambda v: with_standing_statistics(gan, v, key, num_passes=passes, pass_size=size)
    )(variables)
    params, _ = gan.generator.normalize(variables["params"], variables["spectral"], step=False)
    means, variances = [], []
    for pass_key in jax.random.split(key, passes):
        z, labels = draw_inputs(jax.random.split(pass_key, size), gan)
        condition = np.concatenate([z, params["class_embedding"]["embedding"][labels]], axis=1)
        x = condition @ params["linear"]["kernel"] + params["linear"]["bias"]
        x = np.asarray(x, np.float64).reshape(-1, 16)
        means.append(x.mean(0))
        variances.append(x.var(0))
    statistics = found["batch_stats"]["stage1_block1"]["norm1"]["norm_act"]
    np.testing.assert_allclose(statistics["mean"], np.mean(means, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics["var"], np.mean(variances, 0), rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, found["params"], variables["params"])

    # However a layer takes its statistics in training, here it takes them of the whole pass.
    workers = make_gan(norm_act("bn_relu", virtual_batch_size=2, axis_name="devices", momentum=0.5))
    again = jax.jit(
        lambda v: with_standing_statistics(workers, v, key, num_passes=passes, pass_size=size)
    )(variables)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        again["batch_stats"],
        found["batch_stats"],
    )


def test_layers_without_batch_statistics_have_no_standing_ones():
    gan = make_gan("evonorm_s0")
    variables = gan.init(jax.random.key(0))[0]
    assert "batch_stats" not in variables
    found = with_standing_statistics(gan, variables, jax.random.key(0), num_passes=9, pass_size=8)
    assert found == variables


def test_averaged_parameters_get_singular_vectors_of_their_own(setup):
    gan, variables = setup
    rng = np.random.default_rng(0)
    others = jax.tree.map(
        lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), variables["params"]
    )
    found = jax.jit(lambda p: averaged_variables(gan, variables, p))(others)
    sigma = gan.generator.largest_singular_value(others, found["spectral"])
    largest = max(
        np.linalg.svd(np.asarray(w).reshape(-1, w.shape[-1]), compute_uv=False)[0]
        for path, w in jax.tree_util.tree_flatten_with_path(others)[0]
        if path[-1].key == "kernel"
    )
    assert sigma == pytest.approx(largest, rel=0.02)


@pytest.fixture(scope="module")
def stepped(setup):
    """The same generator, whose statistics have moved from where they start."""
    gan, variables = setup
    moved = jax.tree.map(lambda x: x + 0.25, variables["batch_stats"])
    return gan, {**variables, "batch_stats": moved}


def test_a_sampler_draws_in_batches_what_the_generator_draws_at_once(stepped):
    gan, variables = stepped
    z, labels = draw_inputs(jax.random.split(jax.random.key(0), 5), gan)
    images = Sampler(gan, variables, batch_size=3)(z, labels)
    expected = to_uint8(jax.jit(gan.generator.apply)(variables, z, labels))
    assert (images.shape, images.dtype) == ((5, 8, 8, 1), np.uint8)
    np.testing.assert_allclose(images.astype(int), np.asarray(expected, int), atol=1)
    weights = Sampler(gan, variables, batch_size=3)(z, np.eye(3, dtype=np.float32)[labels])
    np.testing.assert_allclose(weights.astype(int), images, atol=1)


@pytest.mark.parametrize("label", [-1, 3])
def test_classes_that_are_not_there(stepped, label):
    with pytest.raises(UserError, match=f"class {label} is out of range.* 0 to 2"):
        Sampler(*stepped)(jnp.zeros((1, 4)), np.array([label]))


@pytest.mark.parametrize("layer", ["bn_relu", "evonorm_b0", "graph:evonorm_b0"])
def test_statistics_that_never_saw_a_batch_draw_nothing(layer):
    gan = make_gan(layer)
    variables = gan.init(jax.random.key(0))[0]
    with pytest.raises(UserError, match="batch statistics have never seen a batch"):
        Sampler(gan, variables)
    # It is enough that those of one layer have moved.
    statistics = variables["batch_stats"]
    head = jax.tree.map(lambda x: x + 0.01, statistics["head_norm"])
    Sampler(gan, {**variables, "batch_stats": {**statistics, "head_norm": head}})


def test_layers_without_statistics_are_sampled_from_the_start():
    gan = make_gan("evonorm_s0")
    images = Sampler(gan, gan.init(jax.random.key(0))[0])(np.zeros((1, 4)), np.array([2]))
    assert images.shape == (1, 8, 8, 1)
