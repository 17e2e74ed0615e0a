"""What timm computes, recorded: short versions of its networks, compared without PyTorch."""

import json

import numpy as np
import pytest

from tests.interop.cases import Outputs, deviations, make_case, run_twin
from tests.interop.record_timm_cases import BATCH, FIELDS, FILE, IMAGE_SIZE, NUM_CLASSES

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("name", FIELDS)
def test_logits_and_gradients(name):
    with np.load(FILE) as recorded:
        texts = (str(recorded[f"{name}/{key}"]) for key in ("shapes", "gradient_norms"))
        shapes, norms = map(json.loads, texts)
        logits = (recorded[f"{name}/{mode}_logits"] for mode in ("eval", "train"))
        theirs = Outputs(*logits, norms)
    case = make_case(shapes, batch=BATCH, image_size=IMAGE_SIZE, num_classes=NUM_CLASSES)
    values = deviations(run_twin(name, case, **FIELDS[name]), theirs)
    assert values["eval"] < 1e-5
    assert values["train"] < 1e-4
    assert values["gradient"] < 1e-3
    assert values["gradient by tensor"] < 1e-2  # a ReLU may flip, see test_timm_parity.py


def test_the_record_is_small():
    assert FILE.stat().st_size < 200_000
