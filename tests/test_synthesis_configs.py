"""The configs of image synthesis: complete, consistent, and named by what they train."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import synthesis_recipes
from evonorm_jax.data.config import check_fields
from evonorm_jax.errors import UserError
from evonorm_jax.sweeps import create_cells
from evonorm_jax.training import train_and_evaluate
from evonorm_jax.training.model import build_gan
from evonorm_jax.training.parallel import layout_workers
from experiments import launch
from experiments.config_file import ROOT

DATASETS = {"imagenet128": "imagenet2012", "cifar10": "cifar10", "digits": "digits"}
NAMES = [
    f"biggan_deep_{dataset}_{layer}" for dataset in DATASETS for layer in synthesis_recipes.LAYERS
]
SWEEPS = {
    "biggan_deep_digits_images_per_worker": 18,
    "biggan_deep_digits_layers": 21,
    "biggan_deep_imagenet128_groups": 9,
}


def module_of(name):
    return importlib.import_module(f"configs.{name}")


@pytest.mark.parametrize("arg", ["", "smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_config_is_complete_and_fits_its_data(name, arg):
    config = module_of(name).get_config(arg)
    assert set(config) == set(synthesis_recipes.base_config("bn_relu"))
    assert config.task == "image_synthesis"
    _, _, dataset, layer = name.split("_", 3)
    assert (config.dataset.name, config.model.norm_act) == (DATASETS[dataset], layer)
    check_fields(config.dataset)
    layout = layout_workers(
        *(config.num_workers, config.images_per_worker, 1),
        sync_batch_stats=config.sync_batch_stats,
    )
    gan = build_gan(config, 10, layout)
    size, channels = config.dataset.image_size, len(config.dataset.mean)
    assert gan.image_shape == (size, size, channels)
    if arg == "smoke":  # the large ones take seconds to trace, and have the same layers
        variables = jax.eval_shape(lambda: gan.init(jax.random.key(0)))
        assert ("batch_stats" in variables[0]) == (layer in ("bn_relu", "evonorm_b0"))


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_the_command_the_hardware_and_the_paper(name):
    doc = module_of(name).__doc__
    assert f"python -m experiments.train --config configs/{name}.py\n" in doc
    assert "\nHardware: " in doc
    assert "\nPaper: " in doc


def test_the_networks_of_the_table():
    config = module_of("biggan_deep_imagenet128_evonorm_s0").get_config()
    counts = build_gan(config, 1000).num_parameters()
    assert counts == (50_265_220, 34_590_210)
    assert config.num_workers * config.images_per_worker == 2048


def test_imagenet_is_cut_about_the_centre_and_averaged():
    for arg in ("", "folder"):
        dataset = module_of("biggan_deep_imagenet128_bn_relu").get_config(arg).dataset
        assert (dataset.train_crop, dataset.resize_method) == ("center", "area")
        assert (dataset.image_size, dataset.resize_size, dataset.flip) == (128, 0, False)


def test_arguments():
    module = module_of("biggan_deep_cifar10_bn_relu")
    assert module.get_config("npz").dataset.source == "npz"
    with pytest.raises(UserError, match="Unknown config argument 'fast'"):
        module.get_config("fast")
    with pytest.raises(UserError, match=r"knows smoke\.$"):
        module_of("biggan_deep_digits_bn_relu").get_config("tfds")


@pytest.mark.parametrize("arg", ["", "smoke"])
@pytest.mark.parametrize("name", SWEEPS)
def test_sweep(name, arg):
    module = module_of(f"sweeps.{name}")
    assert f"configs/sweeps/{name}.py" in module.__doc__
    cells = create_cells(module.sweep(arg), Path("runs"))
    assert len(cells) == SWEEPS[name] or arg
    batch_sizes = set()
    for cell in cells:
        config = launch.override(module.get_config(arg), cell.arguments)
        build_gan(config, 10)
        batch_sizes.add(config.num_workers * config.images_per_worker)
    assert len(batch_sizes) == 1
    seeds = [overrides["seed"] for overrides in module.sweep(arg)]
    assert seeds == sorted(seeds)


@pytest.mark.slow  # the task's own tests train one of them
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", NAMES)
def test_smoke(name, tmp_path):
    config = launch.parse_config(f"{ROOT}/configs/{name}.py:smoke", [])
    summary = train_and_evaluate(config, tmp_path / "run", devices=jax.devices()[:1])
    assert summary["steps"] == 8
    assert summary["eval/examples"] == 20
    assert np.isfinite(summary["eval/score_gap"])
