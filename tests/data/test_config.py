import pytest

from evonorm_jax.data import create_pipeline, dataset_config
from evonorm_jax.errors import UserError


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100", "imagenet2012", "own"])
@pytest.mark.parametrize("source", ["embedded", "fake", "folder", "npz", "tfds"])
def test_every_config_has_every_field(name, source):
    fields = set(dataset_config(name, source))
    assert fields == set(dataset_config("digits", "embedded"))


def test_defaults_of_the_paper():
    imagenet = dataset_config("imagenet2012", "tfds")
    assert (imagenet.image_size, imagenet.resize_size, imagenet.min_crop_area) == (224, 256, 0.08)
    assert (imagenet.flip, imagenet.in_memory, imagenet.eval_split) == (True, False, "validation")
    cifar = dataset_config("cifar10", "folder")
    assert (cifar.image_size, cifar.pad, cifar.flip, cifar.in_memory) == (32, 4, True, True)
    assert (cifar.train_split, cifar.eval_split) == ("train", "test")


def test_a_config_does_not_share_state():
    dataset_config("cifar10", "folder").pad = 9
    assert dataset_config("cifar10", "folder").pad == 4


def test_unknown_source_and_field():
    with pytest.raises(UserError, match="Unknown source 'web': take one of embedded"):
        dataset_config("digits", "web")
    with pytest.raises(UserError, match=r"Unknown field crop_size .*It has path"):
        dataset_config("digits", "embedded", crop_size=3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", "web"),
        ("mean", (1.0, 2.0)),
        ("mean", ()),
        ("std", (0.0,)),
        ("std", (1.0, 1.0, 1.0)),
        ("image_size", 0),
        ("pad", -1),
        ("train_crop_size", -1),
        ("train_crop_size", 11),  # 8 pixels and a pad of 1 on both sides make 10
        ("resize_size", 7),
        ("min_crop_area", 0.0),
        ("min_crop_area", 1.5),
        ("randaugment_layers", -1),
        ("randaugment_magnitude", 31),
        ("shuffle_buffer", 0),
        ("num_parallel_calls", 0),
        ("prefetch", 0),
        ("num_classes", 11),
        ("num_train_examples", 1438),
        ("num_eval_examples", 1),
    ],
)
def test_bad_values_are_named(field, value):
    config = dataset_config("digits", "embedded")
    config[field] = value
    with pytest.raises(UserError, match=rf"config\.dataset\.{field} is"):
        create_pipeline(config, seed=0)


def test_bad_combinations():
    with pytest.raises(UserError, match=r"RandAugment .* streamed"):
        create_pipeline(dataset_config("digits", "embedded", randaugment_layers=2), seed=0)
    with pytest.raises(UserError, match=r"AutoAugment .* streamed .* autoaugment=False"):
        create_pipeline(dataset_config("digits", "embedded", autoaugment=True), seed=0)
    both = {"autoaugment": True, "randaugment_layers": 2}
    with pytest.raises(UserError, match=r"config.dataset.autoaugment is True, but must be False"):
        create_pipeline(dataset_config("imagenet2012", "folder", **both), seed=0)
    with pytest.raises(UserError, match=r"'embedded' is always held in memory"):
        create_pipeline(dataset_config("digits", "embedded", in_memory=False), seed=0)
    with pytest.raises(UserError, match=r"No data set 'cifar10' is embedded"):
        create_pipeline(dataset_config("cifar10", "embedded"), seed=0)
    with pytest.raises(UserError, match=r"digits are part of the package"):
        create_pipeline(dataset_config("digits", "embedded", path="/x"), seed=0)
    with pytest.raises(UserError, match=r"pad is 4, but a streamed set"):
        create_pipeline(
            dataset_config(
                "cifar10",
                "fake",
                in_memory=False,
                num_train_examples=8,
                num_eval_examples=8,
                num_classes=2,
            ),
            seed=0,
        )
    with pytest.raises(UserError, match=r"seed must lie in"):
        create_pipeline(dataset_config("digits", "embedded"), seed=-1)
