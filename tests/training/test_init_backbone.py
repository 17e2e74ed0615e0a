"""Detectors that start with the backbone of a classifier."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from configs import detection_recipes, recipes
from evonorm_jax.data import dataset_config
from evonorm_jax.errors import UserError
from evonorm_jax.interop import from_timm_state_dict, timm_tensors
from evonorm_jax.training.checkpoint import Checkpoints
from evonorm_jax.training.experiment import create_experiment
from evonorm_jax.training.run_directory import open_run_directory
from tests.interop.cases import make_case

pytest.importorskip("faster_coco_eval", reason="needs the `detection` extra")
ONE_DEVICE = jax.devices()[:1]


def write_run(config, workdir):
    """A run directory with the checkpoint of step 0; returns the state."""
    run = create_experiment(config, ONE_DEVICE)
    open_run_directory(workdir, run, first_process=True)
    state = run.parallel.replicate(run.create_state())
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(state, config)
    return state


def classifier_config(layer="gn_relu", num_filters=8):
    config = recipes.smoke(recipes.imagenet_resnet("resnet50", layer))
    config.model.name = "resnet18_v1"
    config.model.fields = {"stage_sizes": (1, 1), "num_filters": num_filters}
    config.dataset = dataset_config(
        "own", "fake", image_size=32, num_classes=3, num_train_examples=8, num_eval_examples=8
    )
    config.dtype = "float32"
    return config


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The run directory of a classifier, and its state."""
    workdir = tmp_path_factory.mktemp("runs") / "classifier"
    return workdir, write_run(classifier_config(), workdir)


def detector_config(init_from, layer="gn_relu"):
    config = detection_recipes.smoke(detection_recipes.nuclei(layer))
    config.model.norm_act_fields = {}
    config.dataset.num_eval_examples = 2
    config.init_from = str(init_from)
    return config


def test_the_backbone_is_that_of_the_classifier_and_the_rest_is_new(classifier):
    workdir, state = classifier
    run = create_experiment(detector_config(workdir), ONE_DEVICE)
    weights = run.task.initial_weights()
    assert weights.description == (
        f"Starting with the backbone of {workdir} at step 0 (resnet18_v1)."
    )
    assert set(weights.variables["params"]) == {"backbone"}
    params = run.create_state(weights.variables).params
    expected = {name: tree for name, tree in state.params.items() if name != "head"}
    jax.tree.map(np.testing.assert_array_equal, params["backbone"], expected)
    assert {"fpn", "rpn", "box_head", "mask_head"} < set(params)


def test_another_layer_is_refused(classifier):
    run = create_experiment(detector_config(classifier[0], "bn_relu"), ONE_DEVICE)
    with pytest.raises(UserError, match=r"has the layer 'gn_relu', but .* is 'bn_relu'"):
        run.task.initial_weights()


def test_another_network_is_refused(classifier):
    config = detector_config(classifier[0])
    config.model.fields.backbone_fields.num_filters = 4
    run = create_experiment(config, ONE_DEVICE)
    with pytest.raises(UserError, match=r"is another network than the backbone: \d+ of its \d+"):
        run.task.initial_weights()


def test_a_detector_starts_from_one_of_its_own_kind(tmp_path):
    config = detector_config("")
    state = write_run(config, tmp_path)
    config.init_from = str(tmp_path)
    weights = create_experiment(config, ONE_DEVICE).task.initial_weights()
    assert weights.description == f"Starting from {tmp_path} at step 0."
    jax.tree.map(np.testing.assert_array_equal, weights.variables["params"], state.params)


def test_the_backbone_is_that_of_a_file_of_timm(tmp_path):
    """Made-up values by the names that timm's resnet18 has, of two blocks and 8 channels."""
    small = {"stage_sizes": (1, 1), "num_filters": 8}
    shapes = {name: t.timm_shape for name, t in timm_tensors("resnet18", 10, **small).items()}
    state_dict = make_case(shapes, batch=1, image_size=8, num_classes=10).state_dict
    path = tmp_path / "weights.safetensors"
    save_file(state_dict, path)
    config = detector_config(path, "bn_relu")
    config.model.norm_act_fields = {"epsilon": 1e-5, "momentum": 0.9}  # timm's
    config.init_from_model = "resnet18"
    run = create_experiment(config, ONE_DEVICE)
    weights = run.task.initial_weights()
    source = f"Starting with the backbone of {path} (timm's resnet18)."
    assert weights.description.startswith(source)
    state, fresh = run.create_state(weights.variables), run.create_state()

    expected = from_timm_state_dict(state_dict, "resnet18", **small)
    expected["params"].pop("head")
    jax.tree.map(
        np.testing.assert_array_equal, dict(state.params["backbone"]), dict(expected["params"])
    )
    stats = state.collections["batch_stats"]
    jax.tree.map(
        np.testing.assert_array_equal, dict(stats["backbone"]), dict(expected["batch_stats"])
    )
    # One by hand: a kernel is [O, I, H, W] there and [H, W, I, O] here.
    kernel = state.params["backbone"]["stem_conv"]["kernel"]
    np.testing.assert_array_equal(kernel, state_dict["conv1.weight"].transpose(2, 3, 1, 0))
    for part in ("fpn", "rpn", "box_head", "mask_head"):
        jax.tree.map(np.testing.assert_array_equal, state.params[part], fresh.params[part])


def test_a_file_needs_its_name(tmp_path):
    save_file({"conv1.weight": np.zeros(1)}, tmp_path / "weights.safetensors")
    config = detector_config(tmp_path / "weights.safetensors")
    run = create_experiment(config, ONE_DEVICE)
    with pytest.raises(UserError, match="say which of timm's networks it is of"):
        run.task.initial_weights()
    config.init_from_model = "resnet18"
    with pytest.raises(UserError, match="the network is not timm's resnet18: "):
        create_experiment(config, ONE_DEVICE).task.initial_weights()
