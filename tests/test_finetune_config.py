"""`configs/finetune_folder.py`: its network has published weights, and its commands work."""

import pytest

from configs import finetune_folder, recipes
from evonorm_jax.data import dataset_config
from evonorm_jax.interop import check_twin
from evonorm_jax.models import create_model
from experiments import launch
from tests.test_configs import field_names

FILE = f"{launch.ROOT}/configs/finetune_folder.py"


@pytest.mark.parametrize("arg", ["", "smoke", "npz"])
def test_it_has_every_field(arg):
    assert field_names(finetune_folder.get_config(arg)) == field_names(recipes.base_config())


def test_its_network_is_that_of_published_weights():
    config = finetune_folder.get_config()
    fields = config.model.fields.to_dict()
    model = create_model(config.model.name, 10, norm_act=config.model.norm_act, **fields)
    check_twin(model, "resnetv2_50d_evos")


@pytest.mark.parametrize(
    ("image_size", "resize_size"), [(224, 256), (288, 329), (160, 183), (64, 73), (7, 8)]
)
def test_the_size_of_images_is_one_field(image_size, resize_size):
    for file in (FILE, f"{FILE}:npz", f"{launch.ROOT}/configs/imagenet_r50_bn_relu.py:folder"):
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
    mobile = f"{launch.ROOT}/configs/imagenet_efficientnet_b5_evonorm_b0.py:folder"
    dataset = launch.parse_config(mobile, ["--config.dataset.image_size=224"]).dataset
    assert dataset.resize_size == 256  # 32 more, as for 456
