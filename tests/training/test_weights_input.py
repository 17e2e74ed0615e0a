"""Images are scaled and cut as published weights want them, and never against a person's word."""

import re
import shlex

import pytest

from configs import recipes
from evonorm_jax.interop import check_twin, find_weights
from evonorm_jax.training.model import build_model
from evonorm_jax.training.weights_input import (
    describe_images,
    describe_scale,
    evaluate_as_weights,
    initial_weights_name,
    scale_as_weights,
)
from experiments import launch
from experiments.config_file import ROOT

HALF = (127.5, 127.5, 127.5)
IMAGENET = (123.675, 116.28, 103.53)
EVOS = "weights/resnetv2_50d_evos.ah_in1k.safetensors"


def imagenet(arg="folder", **dataset):
    config = recipes.parse_arg(recipes.imagenet_resnet("resnet50", "evonorm_s0"), arg)
    config.dataset.update(dataset)
    config.lock()
    return config


def starting_from(config, init_from=EVOS, model=""):
    with config.unlocked():
        config.init_from, config.init_from_model = init_from, model
    return config


@pytest.mark.parametrize(
    ("init_from", "model"),
    [(EVOS, ""), ("w.safetensors", "resnetv2_50d_evos.ah_in1k"), ("w", "resnetv2_50d_evos")],
)
def test_fine_tuning_takes_mean_and_std_of_the_weights(init_from, model):
    before = starting_from(imagenet(), init_from, model)
    config = scale_as_weights(before)
    assert tuple(config.dataset.mean) == tuple(config.dataset.std) == HALF
    assert (config.dataset.image_size, config.dataset.resize_size) == (224, 256)
    assert tuple(before.dataset.mean) == IMAGENET
    assert config.is_locked
    assert "the mean and std of these weights" in describe_scale(config, model or EVOS[8:-12])
    assert scale_as_weights(config) is config


def test_the_scale_of_other_weights_gives_way_as_well():
    config = starting_from(imagenet(mean=HALF, std=HALF), "resnet50.a1_in1k.safetensors")
    config = scale_as_weights(config)
    assert tuple(config.dataset.mean) == find_weights("resnet50.a1_in1k").mean == IMAGENET


def test_the_defaults_of_cifar_give_way():
    config = starting_from(recipes.cifar10("cifar_resnet20", "bn_relu"))
    assert tuple(scale_as_weights(config).dataset.mean) == HALF


@pytest.mark.parametrize(
    ("config", "typed"),
    [
        (starting_from(imagenet()), {"dataset.mean"}),
        (starting_from(imagenet(mean=(1.0, 2.0, 3.0))), ()),
        (starting_from(imagenet(), "w.safetensors", "resnet50"), ()),  # whose weights?
        (starting_from(imagenet(), "runs/earlier"), ()),
        (imagenet(), ()),
        (starting_from(recipes.digits("evonorm_s0")), ()),  # grey
    ],
)
def test_what_a_person_has_chosen_stays(config, typed):
    assert scale_as_weights(config, typed) is config


def test_another_scale_is_said():
    text = describe_scale(imagenet(mean=(1.0, 2.0, 3.0)), "resnetv2_50d_evos.ah_in1k")
    assert text.startswith(" They were trained with mean 127.5, 127.5, 127.5 and std 127.5,")
    assert "this run has config.dataset.mean 1, 2, 3 and std 58.395, 57.12, 57.375." in text
    assert describe_scale(imagenet(), "") == describe_scale(imagenet(), "resnet50") == ""


def test_an_evaluation_takes_size_and_crop_as_well():
    config = evaluate_as_weights(imagenet(), "resnet50.tv2_in1k")
    # 224 / 0.965 = 232.1
    assert describe_images(config).startswith("224 pixels, cut from 232, mean 123.675,")
    config = evaluate_as_weights(imagenet(), "resnetv2_50d_evos")
    assert describe_images(config).startswith("288 pixels, cut from 288, mean 127.5,")


def test_an_evaluation_keeps_what_is_typed():
    config = imagenet(image_size=192, resize_size=200)
    config = evaluate_as_weights(config, "resnetv2_50d_evos", {"dataset.image_size"})
    assert describe_images(config).startswith("192 pixels, cut from 200, mean 127.5,")
    config = evaluate_as_weights(config, "resnet50.a1_in1k", {"dataset.mean", "dataset.std"})
    assert describe_images(config).startswith("288 pixels, cut from 288, mean 127.5,")


def test_stored_images_keep_their_size():
    config = evaluate_as_weights(imagenet("smoke"), "resnetv2_50d_evos")
    assert describe_images(config).startswith("16 pixels, mean 127.5,")
    assert evaluate_as_weights(imagenet(), "resnet50").dataset.image_size == 224


def test_the_documented_fine_tuning_is_of_the_network_of_its_weights():
    text = (ROOT / "docs" / "weights.md").read_text()
    commands = re.findall(r"^python -m experiments\.train (.*init_from=weights/.*)$", text, re.M)
    assert commands
    for command in commands:
        _, file, *arguments = shlex.split(command)
        overrides = [argument for argument in arguments if argument.startswith("--config.")]
        config = launch.parse_config(str(ROOT / file.partition(":")[0]) + ":folder", overrides)
        config = scale_as_weights(config, launch.overridden_fields(overrides))
        weights = find_weights(initial_weights_name(config))
        check_twin(build_model(config, 5), weights.name, **config.model.fields)
        assert tuple(config.dataset.mean) == weights.mean


@pytest.mark.parametrize(
    "name",
    sorted(
        path.stem
        for path in (ROOT / "configs").glob("*.py")
        if path.stem not in ("__init__", "arguments") and not path.stem.endswith("recipes")
    ),
)
def test_a_config_of_any_task_keeps_its_own_scale(name):
    """`experiments.train` asks for it of every run, and image synthesis starts from no weights."""
    config = launch.parse_config(f"{ROOT}/configs/{name}.py", [])
    assert initial_weights_name(config) == ""
    assert scale_as_weights(config) is config
