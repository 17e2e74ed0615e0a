"""Every file in configs/sweeps/ is a config, and what it sweeps over fits it."""

import importlib
from pathlib import Path

import pytest

from configs import recipes
from evonorm_jax.analysis import paper
from evonorm_jax.errors import UserError
from evonorm_jax.models import model_names
from evonorm_jax.norm_act import norm_act
from evonorm_jax.sweeps import create_cells
from evonorm_jax.training.durations import resolve_durations
from evonorm_jax.training.optimizer import learning_rate_schedule, peak_learning_rate
from experiments import launch

SWEEP_DIR = Path(recipes.__file__).parent / "sweeps"
NAMES = sorted(
    path.stem
    for path in SWEEP_DIR.glob("*.py")
    if path.stem not in ("__init__", "batch_size_sweep", "proxy_task")
    and not path.stem.startswith("biggan_deep_")  # test_synthesis_configs.py
)
BATCH_SIZE_NAMES = [name for name in NAMES if name.endswith("_batch_size")]
TRAIN_EXAMPLES = {"digits": 1_437, "cifar10": 50_000, "imagenet2012": 1_281_167}


def module_of(name):
    return importlib.import_module(f"configs.sweeps.{name}")


def configs_of(name, arg=""):
    module = module_of(name)
    for cell in create_cells(module.sweep(arg), Path("runs")):
        yield launch.override(module.get_config(arg), cell.arguments)


def test_the_sweeps_are_there():
    assert {"digits_batch_size", "cifar10_batch_size", "imagenet_r50_batch_size"} <= set(NAMES)


@pytest.mark.parametrize("name", BATCH_SIZE_NAMES)
def test_all_sizes_have_all_layers_and_all_seeds(name):
    layers, sizes, seeds = set(), set(), set()
    configs = list(configs_of(name))
    for config in configs:
        layers.add(config.model.norm_act)
        sizes.add(config.images_per_worker)
        seeds.add(config.seed)
    assert len(configs) == len(layers) * len(sizes) * len(seeds)
    assert {"bn_relu", "evonorm_s0"} < layers
    assert len(sizes) >= 4
    assert min(seeds) == 0


@pytest.mark.parametrize("name", BATCH_SIZE_NAMES)
def test_learning_rate_follows_the_batch_and_epochs_are_equal(name):
    rates = set()
    for config in configs_of(name):
        assert config.model.name in model_names()
        norm_act(config.model.norm_act, **config.model.norm_act_fields.to_dict())
        batch_size = config.num_workers * config.images_per_worker
        steps_per_epoch = TRAIN_EXAMPLES[config.dataset.name] // batch_size
        durations = resolve_durations(config, steps_per_epoch)
        assert durations.num_steps == round(config.num_epochs * steps_per_epoch)
        peak = peak_learning_rate(config.optimizer, batch_size)
        schedule = learning_rate_schedule(config.schedule, peak, durations)
        rates.add(float(schedule(durations.warmup_steps)) / batch_size)
        assert config.num_epochs == module_of(name).get_config().num_epochs
    assert max(rates) == pytest.approx(min(rates), rel=1e-3)


def test_the_proxy_task_is_the_papers_at_two_lengths():
    configs = list(configs_of("cifar10_proxy_resnet56"))
    assert len(configs) == 2 * 2 * 3
    for config in configs:
        assert config.num_workers * config.images_per_worker == 128
        assert (config.dataset.train_crop_size, config.dataset.image_size) == (24, 32)
        durations = resolve_durations(config, 50_000 // 128)
        assert durations.num_steps in (5000, 400)
        peak = peak_learning_rate(config.optimizer, 128)
        schedule = learning_rate_schedule(config.schedule, peak, durations)
        assert float(schedule(0)) == pytest.approx(0.1)


@pytest.mark.parametrize("model", ["resnet50", "mobilenet_v2", "efficientnet_b0"])
def test_the_proxy_task_is_that_of_each_series(model):
    configs = list(configs_of(f"cifar10_proxy_{model}"))
    assert len(configs) == 2 * 2 * 3
    assert {config.model.name for config in configs} == {f"{model}_cifar"}
    for config in configs:
        assert config.num_workers * config.images_per_worker == 128
        assert (config.dataset.train_crop_size, config.dataset.image_size) == (24, 32)
        durations = resolve_durations(config, 50_000 // 128)
        peak = peak_learning_rate(config.optimizer, 128)
        schedule = learning_rate_schedule(config.schedule, peak, durations)
        half = float(schedule(durations.num_steps // 2))
        if config.model.norm_act == "evonorm_b0":
            assert (durations.num_steps, half) == (2000, pytest.approx(0.1))
        if config.model.norm_act == "evonorm_s0":
            assert (durations.num_steps, half) == (5000, pytest.approx(0.05))
        assert float(schedule(0)) == pytest.approx(0.1)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_seed_comes_first(name):
    seeds = [overrides["seed"] for overrides in module_of(name).sweep()]
    assert seeds == sorted(seeds)


@pytest.mark.parametrize("name", NAMES)
def test_the_smoke_form_is_four_small_cells(name):
    configs = list(configs_of(name, "smoke"))
    assert len(configs) == 4
    for config in configs:
        assert config.num_workers * config.images_per_worker <= config.dataset.num_train_examples


def test_the_smoke_form_combines_with_a_source():
    configs = list(configs_of("cifar10_batch_size", "folder,smoke"))
    assert len(configs) == 4
    assert {config.dataset.source for config in configs} == {"folder"}


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_the_command_the_hardware_and_the_paper(name):
    doc = module_of(name).__doc__
    command = f"python -m experiments.sweep --config configs/sweeps/{name}.py --workdir runs/{name}"
    assert command in " ".join(doc.replace("\\\n", " ").split())
    assert "\nHardware: " in doc
    assert "\nPaper: " in doc


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_argument_raises(name):
    with pytest.raises(UserError, match="Unknown config argument 'fast'"):
        module_of(name).get_config("fast")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("imagenet")])
def test_imagenet_has_the_cells_of_the_papers_table(name):
    configs = list(configs_of(name))
    model = configs[0].model.name
    assert {c.num_workers for c in configs} == {paper.BATCH_SIZE_WORKERS[model]}
    assert {c.model.norm_act for c in configs} == set(paper.BATCH_SIZE[model])
    assert {c.images_per_worker for c in configs} == set(paper.BATCH_SIZE_IMAGES_PER_WORKER)
