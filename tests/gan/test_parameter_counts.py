"""Sizes of both players against published ones, and what their layers hold."""

import functools
import math

import jax
import pytest
from flax import traverse_util

from evonorm_jax.gan import create_gan, gan_names

#: What the paper swaps: Table 5.
LAYERS = ("bn_relu", "evonorm_b0", "gn_relu", "ln_relu", "pixel_norm_relu", "evonorm_s0")
DISCRIMINATOR_128 = 34_590_210


@functools.cache
def abstract_variables(name, norm_act, **fields):
    gan = create_gan(name, 1000, norm_act=norm_act, **fields)
    z, labels, _ = gan.shapes()
    return jax.eval_shape(gan.generator.network.init, jax.random.key(0), z, labels)


def size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("norm_act", LAYERS)
def test_generator_for_128_pixels(norm_act):
    """The unit test of compare_gan and the PyTorch code have the first; v is one per channel."""
    evonorm = norm_act.startswith("evonorm")
    expected = 50_265_220 if evonorm else 50_244_484
    assert expected == 50_244_484 + (20_608 + 128) * evonorm
    assert size(abstract_variables("biggan_deep_128", norm_act)["params"]) == expected


def test_both_players_for_128_pixels():
    gan = create_gan("biggan_deep_128", num_classes=1000, norm_act="bn_relu")
    assert gan.num_parameters() == (50_244_484, DISCRIMINATOR_128)


def test_published_generators():
    """With all 128 output channels: DeepMind's 50.4 and 55.9 million."""
    for name, parameters in (("biggan_deep_128", 50_388_609), ("biggan_deep_256", 55_880_833)):
        params = abstract_variables(name, "bn_relu", head_features=128)["params"]
        assert size(params) == parameters


def test_parts_of_the_generator_by_hand():
    params = abstract_variables("biggan_deep_128", "bn_relu")["params"]
    blocks = {name: value for name, value in params.items() if name.startswith("stage")}
    conditioning = [
        leaf
        for path, leaf in traverse_util.flatten_dict(blocks).items()
        if path[1].startswith("norm")
    ]
    assert len(blocks) == 10
    assert size(params["class_embedding"]) == 1000 * 128
    assert size(params["linear"]) == (256 + 1) * 16 * 16 * 128
    assert size(conditioning) == 2 * 256 * 20_608
    assert size(blocks) - size(conditioning) == 31_058_176
    assert size(params["non_local"]) == 2 * 256 * 32 + 2 * 256 * 128 + 1
    assert size([params["head_norm"], params["head_conv"]]) == 2 * 128 + 9 * 128 * 3 + 3


@pytest.mark.parametrize(
    ("num_filters", "generator", "discriminator"),
    [(64, 3_079_299, 651_649), (32, 1_380_547, 166_081), (16, 650_979, 43_105)],
)
def test_32_pixels(num_filters, generator, discriminator):
    """Those of the PyTorch code with 10 classes."""
    gan = create_gan("biggan_deep_32", 10, norm_act="bn_relu", num_filters=num_filters)
    assert gan.num_parameters() == (generator, discriminator)


def test_8_pixels_by_hand():
    """Grey digits: 8 filters, noise and embedding of 16; one stage, two blocks of 32 channels."""
    gan = create_gan(
        *("biggan_deep_8", 10, "evonorm_s0"),
        num_filters=8,
        z_dim=16,
        embedding_dim=16,
        image_channels=1,
    )
    generator_block = (32 * 8 + 8) + 2 * (9 * 8 * 8 + 8) + (8 * 32 + 32)
    conditioning = 2 * 32 * (32 + 3 * 8) + (32 + 3 * 8)  # scale, bias and v
    generator = (
        10 * 16 + 33 * 16 * 32 + 2 * (generator_block + conditioning) + (3 * 32 + 9 * 32 + 1)
    )
    discriminator = (9 * 32 + 32) + 4 * generator_block + (32 + 1) + 10 * 32
    assert gan.num_parameters() == (generator, discriminator)


@pytest.mark.parametrize("norm_act", LAYERS)
def test_state_of_the_generator(norm_act):
    variables = abstract_variables("biggan_deep_128", norm_act)
    statistics = {"bn_relu": 2 * 20_736, "evonorm_b0": 20_736}
    assert size(variables.get("batch_stats", {})) == statistics.get(norm_act, 0)
    assert ("batch_stats" in variables) == (norm_act in statistics)


def test_vectors_of_the_power_method():
    gan = create_gan("biggan_deep_128", 1000, norm_act="bn_relu")
    z, labels, images = gan.shapes()
    for player, inputs, expected in (
        (gan.generator, (z, labels), 93_123),
        (gan.discriminator, (images, labels), 25_153),
    ):
        params = jax.eval_shape(player.network.init, jax.random.key(0), *inputs)["params"]
        vectors = player.vector_shapes(params).values()
        assert sum(math.prod(both["u"].shape) for both in vectors) == expected
        kernels = [path for paths in player.groups(params).values() for path in paths]
        flat = traverse_util.flatten_dict(params)
        matrices = {path for path, leaf in flat.items() if len(leaf.shape) > 1}
        spared = {("class_embedding", "embedding")} if player is gan.generator else set()
        assert set(kernels) == matrices - spared


def test_every_place_holds_the_layer():
    """40 conditional layers and one at the end, each with its `v`: none is a bare ReLU."""
    params = traverse_util.flatten_dict(
        abstract_variables("biggan_deep_128", "evonorm_s0")["params"]
    )
    layers = {path[:-1] for path in params if path[-1] == "v"}
    blocks = [f"stage{i}_block{j}" for i in range(1, 6) for j in (1, 2)]
    places = {(block, f"norm{k}", "norm_act") for block in blocks for k in range(1, 5)}
    assert layers == places | {("head_norm",)}
    # Scale and bias of a conditional layer come from the condition, so it has none of its own.
    assert not any(path[-2:] == ("norm_act", "scale") for path in params)


@pytest.mark.parametrize("name", gan_names())
def test_every_network_of_the_table(name):
    """Shapes all the way through both players, from 8 to 256 pixels."""
    gan = create_gan(name, 3, norm_act="ln_relu", num_filters=8, z_dim=4, embedding_dim=4)
    z, labels, images = gan.shapes()
    drawn, _ = jax.eval_shape(gan.generator.network.init_with_output, jax.random.key(0), z, labels)
    assert drawn.shape == images.shape
    assert int(name.rsplit("_", 1)[1]) == gan.image_size
    scores, params = jax.eval_shape(
        gan.discriminator.network.init_with_output, jax.random.key(0), drawn, labels
    )
    assert scores.shape == (1,)
    assert ("non_local" in params["params"]) == (gan.image_size >= 64)
