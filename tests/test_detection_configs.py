"""Every file in configs/ that trains a detector is complete, consistent, and says the truth."""

import importlib
from pathlib import Path

import pytest

from configs import detection_recipes
from evonorm_jax.analysis import paper
from evonorm_jax.data.instances.config import check_instance_fields
from evonorm_jax.detection import create_detector
from evonorm_jax.errors import UserError
from evonorm_jax.training.durations import resolve_durations
from evonorm_jax.training.optimizer import learning_rate_schedule, peak_learning_rate
from experiments import launch

CONFIG_DIR = Path(detection_recipes.__file__).parent
NAMES = sorted(path.stem for path in CONFIG_DIR.glob("*_maskrcnn_*.py"))
LAYERS = ("bn_relu", "evonorm_b0", "gn_relu", "evonorm_s0")
TRAIN_EXAMPLES = {"coco2017": 118_287, "nuclei256": 48}


def module_of(name):
    return importlib.import_module(f"configs.{name}")


def field_names(config):
    """Dotted names of all fields; what lies below the open dictionaries is the config's own."""
    names = set(config)
    return names | {
        f"{name}.{field}" for name in ("model", "optimizer", "schedule") for field in config[name]
    }


def test_the_rows_of_the_paper_are_there():
    networks = ("coco_maskrcnn_r50_fpn", "coco_maskrcnn_r101_fpn", "coco_maskrcnn_spinenet96")
    networks += ("nuclei256_maskrcnn_r18_fpn",)
    expected = {f"{network}_{layer}" for network in networks for layer in LAYERS}
    expected |= {f"digit_scenes_maskrcnn_r18_fpn_{layer}" for layer in ("bn_relu", "evonorm_s0")}
    assert set(NAMES) == expected


@pytest.mark.parametrize("arg", ["", "smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_config_is_complete_and_its_parts_exist(name, arg):
    config = module_of(name).get_config(arg)
    assert field_names(config) == field_names(detection_recipes.base_config())
    assert config.task == "instance_segmentation"
    check_instance_fields(config.dataset)
    detector = create_detector(
        config.model.name,
        norm_act=config.model.norm_act,
        dtype=config.dtype,
        norm_act_fields=config.model.norm_act_fields.to_dict(),
        **config.model.fields.to_dict(),
    )
    assert config.dataset.image_size % 2**detector.max_level == 0
    num_examples = config.dataset.num_train_examples or TRAIN_EXAMPLES[config.dataset.name]
    batch_size = config.num_workers * config.images_per_worker
    durations = resolve_durations(config, num_examples // batch_size)
    peak = peak_learning_rate(config.optimizer, batch_size)
    schedule = learning_rate_schedule(config.schedule, peak, durations)
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
    dataset, model = name.split("_maskrcnn_")
    assert config.dataset.name == dataset.replace("coco", "coco2017")
    assert f"maskrcnn_{model}" == f"{config.model.name}_{config.model.norm_act}"


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("model", ["maskrcnn_r50_fpn", "maskrcnn_r101_fpn"])
def test_the_docstring_has_the_numbers_of_the_paper(model, layer):
    number = paper.COCO[model][layer]
    doc = module_of(f"coco_{model}_{layer}").__doc__
    assert f"box AP {number.box_ap} %, mask AP {number.mask_ap} % (arXiv v1, Table 4)." in doc


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_argument_raises_and_names_the_known_ones(name):
    with pytest.raises(UserError, match=r"Unknown config argument 'tfds' after .* knows smoke\.$"):
        module_of(name).get_config("tfds")


def test_the_schedule_of_coco():
    """8 x 8 images: 135,000 steps to 0.1; SpineNet: 256 images, 162,000 steps to 0.28."""
    config = module_of("coco_maskrcnn_r50_fpn_evonorm_s0").get_config()
    durations = resolve_durations(config, 118_287 // 64)
    assert durations.num_steps == pytest.approx(135_000, rel=1e-2)
    assert durations.warmup_steps == pytest.approx(2000, rel=1e-2)
    assert peak_learning_rate(config.optimizer, 64) == pytest.approx(0.1)
    config = module_of("coco_maskrcnn_spinenet96_bn_relu").get_config()
    assert config.num_workers * config.images_per_worker == 256
    durations = resolve_durations(config, 118_287 // 256)
    assert durations.num_steps == pytest.approx(162_050, rel=1e-2)
    assert durations.warmup_steps == pytest.approx(2000, rel=1e-2)
    assert peak_learning_rate(config.optimizer, 256) == pytest.approx(0.28)
    assert config.model.norm_act_fields.to_dict() == {"momentum": 0.99, "epsilon": 1e-3}


def test_rematerialisation_reaches_the_backbone():
    config = importlib.import_module("configs.coco_maskrcnn_r50_fpn_evonorm_s0").get_config("smoke")
    config = launch.override(config, ["--config.model.fields.backbone_fields.remat=True"])
    detector = create_detector(
        config.model.name,
        num_classes=3,
        norm_act="evonorm_s0",
        **config.model.fields.to_dict(),
    )
    assert detector.backbone.remat
