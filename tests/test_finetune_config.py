"""`configs/finetune_folder.py`: its network has published weights, and it trains on any folder."""

import io

import jax
import pytest

from configs import finetune_folder, recipes
from evonorm_jax.data import dataset_config
from evonorm_jax.errors import UserError
from evonorm_jax.interop import check_twin
from evonorm_jax.models import create_model
from evonorm_jax.run_files import CLASSES_FILE, CONFIG_FILE, read_json
from evonorm_jax.training import train_and_evaluate
from experiments import launch
from experiments.config_file import ROOT
from experiments.train import default_workdir
from tests.data.conftest import write_folder
from tests.test_configs import field_names

CIFAR = f"{ROOT}/configs/cifar10_resnet20_evonorm_s0.py:folder"
FILE = f"{ROOT}/configs/finetune_folder.py"


@pytest.mark.parametrize("arg", ["", "smoke", "npz"])
def test_it_has_every_field(arg):
    assert field_names(finetune_folder.get_config(arg)) == field_names(recipes.base_config())


def test_its_network_is_that_of_published_weights():
    config = finetune_folder.get_config()
    fields = config.model.fields.to_dict()
    model = create_model(config.model.name, 10, norm_act=config.model.norm_act, **fields)
    check_twin(model, "resnetv2_50d_evos")


@pytest.mark.parametrize(
    ("file", "path", "workdir"),
    [
        (FILE, "data/photos/", "runs/finetune_folder_photos"),
        (f"{FILE}:npz", "/data/x.npz", "runs/finetune_folder_npz_x.npz"),
        (f"{FILE}:smoke", "", "runs/finetune_folder_smoke"),
        (CIFAR, "/data/cifar10", "runs/cifar10_resnet20_evonorm_s0_folder"),
    ],
)
def test_each_folder_has_a_run_directory_of_its_own(file, path, workdir):
    config = launch.parse_config(file, [f"--config.dataset.path={path}"])
    assert str(default_workdir(file, config)) == workdir


@pytest.mark.parametrize(
    ("image_size", "resize_size"), [(224, 256), (288, 329), (160, 183), (64, 73), (7, 8)]
)
def test_the_size_of_images_is_one_field(image_size, resize_size):
    for file in (FILE, f"{FILE}:npz", f"{ROOT}/configs/imagenet_r50_bn_relu.py:folder"):
        config = launch.parse_config(file, [f"--config.dataset.image_size={image_size}"])
        dataset = config.dataset
        assert (dataset.image_size, dataset.resize_size) == (image_size, resize_size)
        resolved = config.copy_and_resolve_references().dataset
        assert (resolved.image_size, resolved.resize_size) == (image_size, resize_size)


def test_the_size_before_the_crop_may_be_set_apart():
    sizes = ["--config.dataset.resize_size=300", "--config.dataset.image_size=288"]
    for overrides in (sizes, sizes[::-1]):
        dataset = launch.parse_config(FILE, overrides).dataset
        assert (dataset.image_size, dataset.resize_size) == (288, 300)
    assert dataset_config("own", "folder", image_size=16, resize_size=18).resize_size == 18
    assert dataset_config("cifar10", "folder", image_size=64).resize_size == 0
    mobile = f"{ROOT}/configs/imagenet_efficientnet_b5_evonorm_b0.py:folder"
    dataset = launch.parse_config(mobile, ["--config.dataset.image_size=224"]).dataset
    assert dataset.resize_size == 256  # 32 more, as for 456


@pytest.mark.usefixtures("quick_compilation")
def test_a_folder_trains_and_keeps_what_was_chosen_for_it(tmp_path):
    photos = write_folder(tmp_path / "photos", {"": (6, 5, 3)})
    small = {"dataset.path": str(photos), "dataset.in_memory": True}
    small |= {"model.name": "cifar_resnet20", "num_epochs": 2.0}

    def train(**fields):
        config = finetune_folder.get_config()
        config.model.fields = {"depth": 8, "num_filters": 4}
        config.update_from_flattened_dict({**small, **fields})
        stream, workdir = io.StringIO(), tmp_path / "run"
        summary = train_and_evaluate(
            config, workdir, devices=jax.devices()[:1], progress_stream=stream
        )
        return summary, stream.getvalue()

    summary, text = train()
    assert (summary["steps"], summary["eval/examples"]) == (2, 3)
    assert text.count("Chosen: dataset.image_size=32, a multiple of 32 pixels") == 1
    assert text.count("Chosen to fit 11 training images: images_per_worker=8, num_steps=0, ") == 1
    assert "training from scratch, for which 11 images are few" in text
    assert f"{photos}: 11 training images, batch 8 = 1 worker x 8 images" in text
    assert "evaluating: 0 of 3 images, compiling first" in text
    saved = read_json(tmp_path / "run" / CONFIG_FILE)
    assert (saved["dataset"]["name"], saved["images_per_worker"]) == ("photos", 8)
    assert (saved["dataset"]["image_size"], saved["dataset"]["resize_size"]) == (32, 37)
    assert read_json(tmp_path / "run" / CLASSES_FILE)["class_names"] == ["ant", "bee", "cat"]

    (photos / "ant" / "005.jpg").unlink()
    (photos / "ant" / "004.jpg").unlink()  # a fresh run would have other sizes, this one goes on
    again, text = train()
    assert again == summary
    assert "Nothing to do" in text
    assert "Chosen" not in text
    photos.rename(tmp_path / "others")
    with pytest.raises(UserError, match=r"dataset\.name: 'photos' there, 'others' here"):
        train(**{"dataset.path": str(tmp_path / "others")})
