"""The launchers that prepare files for the figures of generated images."""

import importlib.util

import numpy as np
import pytest

from experiments import convert_inception
from tests.experiments import command_line


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_converting_needs_pytorch(tmp_path, refusal):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"")
    assert "reading a .pth file needs PyTorch" in refusal(convert_inception.main, str(path))
    assert list(tmp_path.iterdir()) == [path]


def test_converting_a_file_that_is_not_there(tmp_path, refusal):
    said = refusal(convert_inception.main, str(tmp_path / "weights.pth"))
    assert "weights.pth is not there; name the .pth file" in said


@pytest.mark.parity
def test_converting_weights(tmp_path):
    """Random weights of the right names, through PyTorch's file and back."""
    import json

    import torch

    from evonorm_jax.gan.features import tensors_hash
    from evonorm_jax.interop import load_inception_weights
    from tests.gan.inception_case import make_state_dict
    from tests.gan.record_torch_cases import FILE

    with np.load(FILE) as file:
        state_dict = make_state_dict(json.loads(str(file["inception/shapes"])))
    path = tmp_path / "weights.pth"
    torch.save({name: torch.tensor(array) for name, array in state_dict.items()}, path)
    process = command_line.run("convert_inception", str(path))
    variables = load_inception_weights(tmp_path / "weights.safetensors")
    assert process.stdout.split()[-1] == tensors_hash(variables)
    kernel = variables["params"]["Conv2d_1a_3x3"]["conv"]["kernel"]
    expected = state_dict["Conv2d_1a_3x3.conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)
