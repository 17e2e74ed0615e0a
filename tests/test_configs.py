"""Every file in configs/ that trains a classifier is complete, consistent, and says the truth."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from configs import recipes
from evonorm_jax.data import create_pipeline
from evonorm_jax.data.config import check_fields
from evonorm_jax.errors import UserError
from evonorm_jax.models import create_model, model_names
from evonorm_jax.norm_act import norm_act, norm_act_names
from evonorm_jax.training.durations import resolve_durations
from evonorm_jax.training.optimizer import learning_rate_schedule, peak_learning_rate

CONFIG_DIR = Path(recipes.__file__).parent
NAMES = sorted(
    path.stem
    for path in CONFIG_DIR.glob("*.py")
    if path.stem not in ("__init__", "arguments")
    and not path.stem.endswith("recipes")
    and "maskrcnn" not in path.stem
    and path.stem != "finetune_folder"  # test_finetune_config.py
    and not path.stem.startswith("biggan_deep_")  # test_synthesis_configs.py
)
TRAIN_EXAMPLES = {"digits": 1_437, "cifar10": 50_000, "imagenet2012": 1_281_167}


def module_of(name):
    return importlib.import_module(f"configs.{name}")


def schedule_of(config, durations, batch_size):
    peak = peak_learning_rate(config.optimizer, batch_size)
    return learning_rate_schedule(config.schedule, peak, durations)


def field_names(config):
    """Dotted names of all fields; what lies below the open dictionaries is the config's own."""
    names = set()
    for name, value in config.items():
        names.add(name)
        if name in ("model", "optimizer", "schedule"):
            names |= {f"{name}.{field}" for field in value}
    return names


def test_the_rows_of_the_paper_are_there():
    batch_dependent = ("bn_relu", "bn_silu", "bn_swish", "rs_rej")
    batch_dependent += ("evonorm_b0", "evonorm_b1", "evonorm_b2")  # table 2
    swept = ("gn_relu", "gn_swish", "frn", "evonorm_s0", "evonorm_s1", "evonorm_s2")  # table 3
    networks = ("r50", "r101", "mobilenet_v2", "mnasnet_b1", "efficientnet_b0", "efficientnet_b5")
    expected = {f"imagenet_{network}_{name}" for network in networks for name in batch_dependent}
    expected |= {f"imagenet_{network}_{name}" for network in networks[:3:2] for name in swept}
    cifar = ("bn_relu", "gn_relu", "gn_swish", "frn", "evonorm_b0", "evonorm_s0")
    expected |= {f"cifar10_resnet{depth}_{name}" for depth in (20, 56) for name in cifar}
    assert expected <= set(NAMES)


@pytest.mark.parametrize("arg", ["", "smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_config_is_complete_and_its_parts_exist(name, arg):
    config = module_of(name).get_config(arg)
    assert field_names(config) == field_names(recipes.base_config())
    check_fields(config.dataset)
    assert config.model.name in model_names()
    assert config.model.norm_act in norm_act_names()
    create_model(
        config.model.name,
        num_classes=10,
        norm_act=config.model.norm_act,
        dtype=config.dtype,
        norm_act_fields=config.model.norm_act_fields.to_dict(),
        **config.model.fields.to_dict(),
    )
    num_examples = config.dataset.num_train_examples or TRAIN_EXAMPLES[config.dataset.name]
    batch_size = config.num_workers * config.images_per_worker
    durations = resolve_durations(config, num_examples // batch_size)
    schedule = schedule_of(config, durations, batch_size)
    peak = config.optimizer.learning_rate_per_256 * batch_size / 256
    if config.schedule.name == "exponential":  # it has begun to fall before the warm-up ends
        peak *= config.schedule.decay_factor ** int(
            config.schedule.warmup_epochs / config.schedule.decay_epochs
        )
    assert float(schedule(durations.warmup_steps)) == pytest.approx(peak)
    assert float(schedule(durations.num_steps - 1)) < 0.02 * peak or arg == "smoke"


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_the_command_the_hardware_and_the_paper(name):
    doc = module_of(name).__doc__
    assert f"python -m experiments.train --config configs/{name}.py\n" in doc
    assert "\nHardware: " in doc
    assert "\nPaper: " in doc


@pytest.mark.parametrize("name", NAMES)
def test_the_file_name_says_what_is_trained(name):
    config = module_of(name).get_config()
    dataset, rest = name.split("_", 1)
    assert config.dataset.name == dataset.replace("imagenet", "imagenet2012")
    model = rest.removesuffix(f"_{config.model.norm_act}")
    abbreviations = {
        "resnet": "cifar_resnet20",
        "resnet20": "cifar_resnet20",
        "resnet56": "cifar_resnet56",
        "r50": "resnet50",
        "r101": "resnet101",
    }
    assert config.model.name == abbreviations.get(model, model)
    assert rest != model


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_argument_raises_and_names_the_known_ones(name):
    with pytest.raises(UserError, match=r"Unknown config argument 'fast' .* knows smoke"):
        module_of(name).get_config("fast")


@pytest.mark.parametrize("arg", ["tfds", "folder", "npz"])
def test_the_argument_chooses_the_source(arg):
    config = module_of("cifar10_resnet20_evonorm_s0").get_config(arg)
    assert config.dataset.source == arg


@pytest.mark.parametrize("arg", ["smoke,npz", "npz,smoke"])
def test_a_small_run_reads_the_first_images_of_a_source(arg):
    config = module_of("cifar10_resnet20_evonorm_s0").get_config(arg)
    small = module_of("cifar10_resnet20_evonorm_s0").get_config("smoke")
    assert (config.dataset.source, config.dataset.image_size) == ("npz", 32)
    splits = (config.dataset.train_split, config.dataset.eval_split)
    assert splits == ("train[:32]", "test[:20]")
    assert config.model == small.model
    assert config.num_epochs == small.num_epochs


def test_a_small_run_of_a_streamed_source_has_small_images():
    config = module_of("imagenet_r50_evonorm_s0").get_config("folder,smoke")
    dataset = config.dataset
    assert (dataset.in_memory, dataset.source, dataset.eval_split) == (False, "folder", "val[:20]")
    assert (dataset.image_size, dataset.resize_size) == (16, 0)


def test_arguments_of_one_kind_exclude_each_other():
    with pytest.raises(UserError, match=r"arguments 'npz' and 'tfds' .* exclude each other"):
        module_of("cifar10_resnet20_evonorm_s0").get_config("npz,smoke,tfds")


@pytest.mark.parametrize(("arg", "split"), [("tfds", "validation"), ("folder", "val")])
def test_imagenet_is_evaluated_on_its_validation_images(arg, split):
    assert module_of("imagenet_r50_evonorm_s0").get_config(arg).dataset.eval_split == split


def test_the_digits_have_no_other_source():
    with pytest.raises(UserError, match=r"knows smoke\.$"):
        module_of("digits_resnet_evonorm_s0").get_config("tfds")


@pytest.mark.parametrize(
    "name", ["digits_resnet_evonorm_s0", "cifar10_resnet20_frn", "imagenet_mnasnet_b1_bn_relu"]
)
def test_smoke_data_is_small_and_made_up(name):
    config = module_of(name).get_config("smoke")
    pipeline = create_pipeline(config.dataset, seed=config.seed)
    assert pipeline.num_train_examples <= 64
    assert pipeline.num_classes == 10
    assert pipeline.num_eval_examples % config.eval_batch_size  # so that padding is tried
    steps = config.num_epochs * pipeline.num_train_examples
    assert steps / (config.num_workers * config.images_per_worker) <= 8


@pytest.mark.parametrize(
    ("name", "batch_size", "image_size", "dropout_rate", "survival_probability"),
    [
        ("imagenet_mobilenet_v2_bn_relu", 4096, 224, 0.2, 1.0),
        ("imagenet_mnasnet_b1_bn_relu", 1024, 224, 0.2, 1.0),
        ("imagenet_efficientnet_b0_bn_silu", 2048, 224, 0.2, 0.8),
        ("imagenet_efficientnet_b5_bn_silu", 2048, 456, 0.4, 0.8),
    ],
)
@pytest.mark.parametrize("arg", ["", "folder"])
def test_mobile_recipe(name, batch_size, image_size, dropout_rate, survival_probability, arg):
    config = module_of(name).get_config(arg)
    assert config.num_workers * config.images_per_worker == batch_size
    assert (config.dataset.image_size, config.dataset.resize_size) == (image_size, image_size + 32)
    assert config.model.fields.dropout_rate == dropout_rate
    assert config.model.fields.get("survival_probability", 1.0) == survival_probability
    augmented = config.dataset.randaugment_layers, config.dataset.randaugment_magnitude
    assert augmented == ((2, 17) if "b5" in name else (0, 0))
    assert config.dataset.autoaugment == ("b0" in name)
    layer = norm_act("bn_relu", **config.model.norm_act_fields.to_dict())()
    assert (layer.momentum, layer.epsilon) == (0.99, 1e-3)


def test_mobile_learning_rate_falls_by_3_percent_every_2_4_epochs():
    config = module_of("imagenet_efficientnet_b0_evonorm_b0").get_config()
    durations = resolve_durations(config, 625)  # 1500 steps are 2.4 epochs
    schedule = schedule_of(config, durations, 2048)
    # The count starts with the run: 5 epochs of warm-up are two falls and 125 steps.
    steps = [0, 1562, 3125, 4499, 4500, 6000]
    expected = [0, 0.128 * 1562 / 3125, *(0.128 * 0.97**falls for falls in (2, 2, 3, 4))]
    assert [float(schedule(step)) for step in steps] == pytest.approx(expected, rel=1e-5)


def test_evonorm_keeps_its_own_momentum_and_epsilon_in_the_mobile_recipe():
    config = module_of("imagenet_efficientnet_b0_evonorm_b0").get_config()
    assert not config.model.norm_act_fields


def test_configs_are_independent_objects():
    module = module_of("imagenet_r50_evonorm_s0")
    module.get_config().optimizer.momentum = 0.0
    assert module.get_config().optimizer.momentum == 0.9


@pytest.mark.parametrize(
    ("images_per_worker", "peak", "num_steps"),
    [(128, 0.4, 112_590), (4, 0.0125, 90 * 40_036)],  # 112,590 is the authors' own number
)
def test_one_override_is_a_row_of_the_batch_size_sweep(images_per_worker, peak, num_steps):
    config = module_of("imagenet_r50_evonorm_s0").get_config()
    config.images_per_worker = images_per_worker
    batch_size = 8 * images_per_worker
    durations = resolve_durations(config, TRAIN_EXAMPLES["imagenet2012"] // batch_size)
    schedule = schedule_of(config, durations, batch_size)
    assert durations.num_steps == num_steps
    rates = [float(schedule(round(num_steps * at / 90))) for at in (2.5, 6, 31, 61, 81)]
    assert rates == pytest.approx([peak / 2, peak, peak / 10, peak / 100, peak / 1000], 1e-3)


def test_loading_a_config_imports_no_tensorflow():
    code = (
        "import sys; from configs.imagenet_r50_evonorm_s0 import get_config; get_config();"
        "print('tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    root = CONFIG_DIR.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
