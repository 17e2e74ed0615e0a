"""docs/config.md: what it says of the fields is what stands beside them."""

from configs import detection_recipes, recipes, synthesis_recipes
from docs import write_config
from evonorm_jax.data import dataset_config
from evonorm_jax.data.instances import instance_dataset_config
from evonorm_jax.training.run_directory import flatten


def sections():
    return [write_config.read_fields(*section[1:]) for section in write_config.SECTIONS]


def test_the_page_is_up_to_date():
    written = write_config.PAGE.read_text(encoding="utf-8")
    assert written == write_config.page(), "run python -m docs.write_config"


def test_it_has_every_field():
    common, images, _, objects, _ = sections()
    flat = flatten(recipes.base_config().to_dict())
    assert sorted(field.name for field in common) == sorted(flat.keys() - {"dataset"})
    for fields, config in (
        (images, dataset_config("digits", "embedded")),
        (objects, instance_dataset_config("nuclei256", "embedded")),
    ):
        named = {field.name for field in fields}
        assert named == {f"dataset.{name}" for name in config} - {"dataset.name", "dataset.source"}


def test_the_tasks_have_the_fields_that_it_says():
    _, _, detection, _, synthesis = sections()
    for fields, config in (
        (detection, detection_recipes.base_config()),
        (synthesis, synthesis_recipes.base_config("bn_relu")),
    ):
        assert {field.name for field in fields} <= flatten(config.to_dict()).keys()


def test_every_field_is_explained():
    explained, bare = set(), []
    for fields in sections():
        for field in fields:
            if field.group or field.comment:
                explained.add(field.name)
            elif field.name not in explained:
                bare.append(field.name)
    assert bare == []
