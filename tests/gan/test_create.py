"""What `create_gan` refuses, and what it passes on."""

import jax
import jax.numpy as jnp
import pytest

from evonorm_jax.errors import UserError
from evonorm_jax.gan import create_gan


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("biggan_deep_48", {}, "unknown network: 'biggan_deep_48'. Did you mean biggan_deep_8"),
        ("biggan_deep_8", {"num_classes": 1}, "num_classes=1: a class-conditional GAN needs at"),
        ("biggan_deep_8", {"num_classes": 2.0}, "num_classes=2.0"),
        ("biggan_deep_8", {"z_dim": 0}, "z_dim=0: expected an integer of at least 1"),
        ("biggan_deep_8", {"image_channels": 0}, "image_channels=0"),
        ("biggan_deep_8", {"num_filters": 0}, "num_filters=0"),
        ("biggan_deep_128", {"num_filters": 6}, "num_filters=6.* take a multiple of 8"),
        ("biggan_deep_64", {"num_filters": 2}, "num_filters=2.* take a multiple of 4"),
        ("biggan_deep_8", {"attention_size": 4}, "attention_size=4: biggan_deep_8 .* choose 0"),
        ("biggan_deep_32", {"attention_size": 32}, "attention_size=32.* choose 16, 8 or 0"),
        ("biggan_deep_8", {"head_features": 2}, "head_features=2: the image has 3 channels"),
        ("biggan_deep_8", {"head_features": "x"}, "head_features='x': expected an integer"),
        ("biggan_deep_8", {"head_features": 3.5}, "head_features=3.5: expected an integer"),
        ("biggan_deep_8", {"spectral_epsilon": 0}, "spectral_epsilon=0: expected a number above"),
        ("biggan_deep_8", {"spectral_epsilon": "x"}, "spectral_epsilon='x': expected a number"),
        ("biggan_deep_8", {"dtype": "int8"}, "dtype='int8': expected a floating-point dtype"),
        ("biggan_deep_8", {"norm_act": "evonrom_s0"}, "unknown layer 'evonrom_s0'"),
    ],
)
def test_refusals(name, arguments, message):
    with pytest.raises(UserError, match=message):
        create_gan(name, **{"num_classes": 3, **arguments})


def test_fields_reach_the_networks():
    gan = create_gan(
        "biggan_deep_32",
        7,
        norm_act="evonorm_s0",
        dtype="bfloat16",
        norm_act_fields={"group_size": 4},
        num_filters=8,
        discriminator_num_filters=16,
        attention_size=16,
        spectral_epsilon=1e-4,
    )
    generator, discriminator = gan.generator.network, gan.discriminator.network
    assert gan.num_classes == 7
    assert generator.norm_act().group_size == 4
    assert (generator.num_filters, discriminator.num_filters) == (8, 16)
    assert generator.dtype == discriminator.dtype == jnp.bfloat16
    assert gan.generator.epsilon == gan.discriminator.epsilon == 1e-4
    variables = jax.eval_shape(gan.init, jax.random.key(0))
    assert all("non_local" in player["params"] for player in variables)
    assert (
        create_gan("biggan_deep_128", 7, attention_size=0).generator.network.attention_size is None
    )


def test_a_searched_layer():
    gan = create_gan("biggan_deep_8", 3, norm_act="graph:evonorm_b0", num_filters=4)
    generator, _ = jax.eval_shape(gan.init, jax.random.key(0))
    layer = generator["params"]["stage1_block1"]["norm1"]["norm_act"]
    assert set(layer) == {"v1"}
    assert "batch_stats" in generator
