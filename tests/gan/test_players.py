"""Losses by hand, and that no player ever moves the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evonorm_jax.gan import create_gan
from evonorm_jax.gan.losses import discriminator_loss, generate, generator_loss

pytestmark = pytest.mark.usefixtures("quick_compilation")

BATCH = 4


@pytest.fixture(scope="module")
def setup():
    gan = create_gan(
        *("biggan_deep_8", 3, "bn_relu"), num_filters=4, z_dim=4, embedding_dim=4, image_channels=1
    )
    generator, discriminator = gan.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 2)
    z = jax.random.normal(keys[0], (BATCH, 4))
    images = jax.random.uniform(keys[1], (BATCH, 8, 8, 1), minval=-1)
    return gan, generator, discriminator, z, images, jnp.array([0, 1, 2, 0])


@pytest.fixture(scope="module")
def gradients(setup):
    """Of both losses by the parameters of both players, and the updates; one program."""
    gan, generator, discriminator, z, images, labels = setup

    @jax.jit
    def run(generator_params, discriminator_params):
        def of_discriminator(generator_params, discriminator_params):
            fake, _ = generate(gan, {**generator, "params": generator_params}, z, labels)
            variables = {**discriminator, "params": discriminator_params}
            result = discriminator_loss(gan, variables, (images, labels), (fake, labels))
            return result.loss, result

        def of_generator(generator_params, discriminator_params):
            return generator_loss(
                gan,
                {**generator, "params": generator_params},
                {**discriminator, "params": discriminator_params},
                z,
                labels,
            )

        params = generator_params, discriminator_params
        both = (
            jax.grad(loss, argnums=(0, 1), has_aux=True)
            for loss in (of_discriminator, of_generator)
        )
        return [gradient(*params) for gradient in both]

    return run(generator["params"], discriminator["params"])


def largest(tree):
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def test_the_discriminators_loss_moves_no_generator(gradients):
    (by_generator, by_discriminator), _ = gradients[0]
    assert largest(by_generator) == 0
    assert largest(by_discriminator) > 1e-3


def test_the_generators_loss_moves_no_discriminator(gradients):
    (by_generator, by_discriminator), _ = gradients[1]
    assert largest(by_discriminator) == 0
    assert largest(by_generator) > 1e-5


def test_each_loss_updates_its_own_player_alone(setup, gradients):
    _, generator, discriminator, *_ = setup
    of_discriminator = gradients[0][1].updates
    of_generator = gradients[1][1]
    assert set(of_discriminator) == {"spectral"}
    assert set(of_generator) == {"spectral", "batch_stats"}
    for updates, before in ((of_discriminator, discriminator), (of_generator, generator)):
        for name, tree in updates.items():
            assert jax.tree.structure(tree) == jax.tree.structure(before[name])
    mean = of_generator["batch_stats"]["head_norm"]["mean"]
    assert not np.allclose(mean, generator["batch_stats"]["head_norm"]["mean"])


def test_hinge_by_hand(setup):
    """A discriminator of zeros but one bias scores that bias everywhere."""
    gan, _, discriminator, _, images, labels = setup
    params = jax.tree.map(jnp.zeros_like, discriminator["params"])

    @jax.jit
    def loss(params):
        variables = {**discriminator, "params": params}
        return discriminator_loss(gan, variables, (images, labels), (images[:2], labels[:2]))[:5]

    for score, real, fake in ((0.25, 0.75, 1.25), (-3.0, 4.0, 0.0), (2.0, 0.0, 3.0)):
        params["linear"]["bias"] = jnp.array([score])
        assert loss(params) == (real + fake, real, fake, score, score)


def test_real_and_drawn_images_are_told_apart(setup):
    """Scores are split where the real images end, also when there are more of one kind."""
    gan, _, discriminator, _, images, labels = setup
    fake = images[:2] * 0.5, labels[:2]

    @jax.jit
    def run(variables):
        both = jnp.concatenate([images, fake[0]]), jnp.concatenate([labels, fake[1]])
        scores, _ = gan.discriminator.apply(variables, *both, mutable="spectral")
        return scores, discriminator_loss(gan, variables, (images, labels), fake)

    scores, result = run(discriminator)
    assert float(result.score_real) == pytest.approx(float(scores[:BATCH].mean()), rel=1e-5)
    assert float(result.score_fake) == pytest.approx(float(scores[BATCH:].mean()), rel=1e-5)
