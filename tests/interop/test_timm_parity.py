"""Every network that has a twin in timm against it: `pytest -m parity tests/interop`.

Random weights, running statistics included; full depth and width, small images. `-s` shows the
deviations.
"""

import jax
import numpy as np
import pytest

from evonorm_jax.interop import TIMM_MODELS, from_timm_state_dict, to_timm_state_dict
from tests.interop.cases import deviations, make_case, run_twin

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("quick_compilation")]


# float32 rounding grows through hundreds of BN-ReLU layers with random weights; 1e-3 elsewhere.
# MobileNetV2 misses that with jax 0.12 (1.2e-3; at most 2.2e-4 with 0.10): its ReLU6 has two kinks,
# and PyTorch's own float32 norm is 4.1e-3 from its float64 one, from which ours is 6e-9.
GRADIENT_TOLERANCE = {"resnet101": 5e-3, "resnetv2_101": 5e-3, "resnet152": 2e-2}


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_logits_gradients_and_the_way_back(name):
    # Imported here so that collecting this file does not need PyTorch; running it does.
    from tests.interop import timm_networks

    network = timm_networks.create(name, num_classes=10)
    # The deepest stride is 32, so the last maps are 3 x 3, and maps are odd all the way there.
    shapes = timm_networks.shapes_of(network)
    case = make_case(shapes, batch=3, image_size=65, num_classes=10)

    back = to_timm_state_dict(from_timm_state_dict(case.state_dict, name), name)
    assert back.keys() == case.state_dict.keys()
    for key, array in back.items():
        np.testing.assert_array_equal(array, case.state_dict[key], strict=True)

    single = deviations(run_twin(name, case), timm_networks.run(network, case))
    # In float32 a ReLU that flips moves the gradients of early tensors by up to 5e-3; in float64
    # none does, and each of them is the same. Our classifier is float32 all the same.
    with jax.enable_x64(True):
        ours = run_twin(name, case, dtype=np.float64)
    double = deviations(ours, timm_networks.run(network, case, dtype=np.float64))

    for precision, values in (("float32", single), ("float64", double)):
        print(f"\n{name} {precision}", *(f"{key} {value:.1e}" for key, value in values.items()))
    assert single["eval"] < 1e-4
    assert single["train"] < 1e-3
    assert single["gradient"] < GRADIENT_TOLERANCE.get(name, 1e-3)
    assert max(double.values()) < 1e-5
