"""Every network that has a twin in timm against it: `pytest -m parity tests/interop`.

Random weights, running statistics included. Full depth and width, small images.
"""

import numpy as np
import pytest
from flax import traverse_util

from evonorm_jax.interop import TIMM_MODELS, from_timm_state_dict, timm_tensors, to_timm_state_dict
from tests.interop.cases import deviation, make_case, run_twin

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("quick_compilation")]

NUM_CLASSES = 10


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_logits_gradients_and_the_way_back(name, record_property):
    # Imported here so that collecting this file does not need PyTorch; running it does.
    from tests.interop import timm_networks

    network = timm_networks.create(name, num_classes=NUM_CLASSES)
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    # The deepest stride is 32: 64 pixels leave 2 x 2 positions, 65 try odd sizes all the way.
    case = make_case(shapes, batch=3, image_size=65, num_classes=NUM_CLASSES)
    theirs = timm_networks.run(network, case)

    ours = run_twin(name, case)
    names = {tensor.path: key for key, tensor in timm_tensors(name, NUM_CLASSES).items()}
    norms = {
        names["params", *path]: float(norm)
        for path, norm in traverse_util.flatten_dict(ours.gradient_norms).items()
    }
    assert norms.keys() == theirs.gradient_norms.keys()
    ours_norm, theirs_norm = (
        np.linalg.norm(list(each.values())) for each in (norms, theirs.gradient_norms)
    )
    deviations = {
        "eval": deviation(ours.eval_logits, theirs.eval_logits),
        "train": deviation(ours.train_logits, theirs.train_logits),
        "gradient norm": abs(ours_norm / theirs_norm - 1),
        "gradient norm by tensor": max(
            abs(norms[key] - norm) / max(norm, 1e-3 * theirs_norm)
            for key, norm in theirs.gradient_norms.items()
        ),
    }
    print(f"{name}: " + ", ".join(f"{key} {value:.1e}" for key, value in deviations.items()))
    assert deviations["eval"] < 1e-4
    assert deviations["train"] < 1e-3
    assert deviations["gradient norm"] < 1e-3
    assert deviations["gradient norm by tensor"] < 1e-2

    back = to_timm_state_dict(from_timm_state_dict(case.state_dict, name), name)
    assert back.keys() == case.state_dict.keys()
    for key, array in back.items():
        np.testing.assert_array_equal(array, case.state_dict[key], strict=True)
