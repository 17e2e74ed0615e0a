"""Files: the round trip, and one clear message for every mistake."""

import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from evonorm_jax.errors import UserError
from evonorm_jax.interop import load_timm_weights, save_timm_weights, timm_tensors
from tests.interop.cases import make_case

SMALL = {"stage_sizes": (1, 1), "num_filters": 4}


@pytest.fixture(scope="module")
def state_dict():
    shapes = {name: t.timm_shape for name, t in timm_tensors("resnet50", 5, **SMALL).items()}
    return make_case(shapes, batch=1, image_size=8, num_classes=5).state_dict


def test_round_trip(tmp_path, state_dict):
    theirs, ours = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    save_file(state_dict, theirs)
    variables = load_timm_weights(theirs, "resnet50.a1_in1k", **SMALL)
    save_timm_weights(jax.device_put(variables), ours, "resnet50", **SMALL)
    with safe_open(ours, framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        names = set(file.keys())
        assert {name for name in names if "num_batches" not in name} == set(state_dict)
        for key, array in state_dict.items():
            np.testing.assert_array_equal(file.get_tensor(key), array, strict=True)
    again = load_timm_weights(str(ours), "resnet50", **SMALL)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files(tmp_path, state_dict, dtype):
    save_file({k: v.astype(dtype) for k, v in state_dict.items()}, tmp_path / "half.safetensors")
    variables = load_timm_weights(tmp_path / "half.safetensors", "resnet50", **SMALL)
    expected = state_dict["fc.weight"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], expected.T)


def test_a_file_of_another_network_names_file_and_tensors(tmp_path, state_dict):
    path = tmp_path / "weights.safetensors"
    save_file(state_dict, path)
    with pytest.raises(
        UserError, match=rf"^{path}: .* not those of timm's resnetv2_50:\n  \d+ mis"
    ):
        load_timm_weights(path, "resnetv2_50", **SMALL)
    with pytest.raises(UserError, match=r"no counterpart here\. Did you mean resnet50\?"):
        load_timm_weights(path, "resnet55")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.safetensors", None, "absent.safetensors is not there; name a .safetensors file"),
        ("", None, "is a folder; name a"),
        ("model.pth", b"\x80\x02}q", "is a pickle.*safetensors.torch.save_file"),
        ("pytorch_model.bin", b"PK", "is a pickle"),
        ("text.safetensors", b"hello world, hello", "is not a safetensors file, or a damaged one"),
        ("empty.safetensors", b"", "is not a safetensors file, or a damaged one"),
    ],
)
def test_mistakes(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_timm_weights(tmp_path / name, "resnet50")


def test_a_place_that_cannot_be_written(tmp_path, state_dict):
    path = tmp_path / "weights.safetensors"
    save_file(state_dict, path)
    variables = load_timm_weights(path, "resnet50", **SMALL)
    with pytest.raises(UserError, match=r"nowhere/out\.safetensors cannot be written"):
        save_timm_weights(variables, tmp_path / "nowhere" / "out.safetensors", "resnet50", **SMALL)
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


def test_the_package_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(UserError, match=r"in the clone, pip install -e '\.\[interop\]'"):
        load_timm_weights(tmp_path / "weights.safetensors", "resnet50")
