"""EvoNorm-B0 and -S0 against timm's PyTorch classes: `pytest -m parity tests/layers`."""

import numpy as np
import pytest

from tests.layers.deviations import EPSILON, deviation, make_case, make_layer, run_layer

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", ["evonorm_b0", "evonorm_s0"])
def test_values_gradients_and_running_variance(name, train):
    # Imported here so that collecting this file does not need PyTorch; running it does.
    from tests.layers import timm_layers

    case = make_case(name, shape=(4, 5, 5, 8))
    y, by_x, by_params, updates = run_layer(make_layer(name, 4), case, train)
    theirs = timm_layers.run(name, case, groups=4, epsilon=EPSILON, train=train)
    assert deviation(y, theirs.y)[1] < 1e-6
    assert deviation(by_x, theirs.by_x)[1] < 2e-6
    for key, value in by_params.items():
        assert deviation(value, theirs.by_params[key])[1] < 5e-6
    if name == "evonorm_b0":
        # timm multiplies the batch variance by n / (n - 1) before averaging; taken out again.
        np.testing.assert_allclose(updates["var"], theirs.running_var, rtol=1e-5)
