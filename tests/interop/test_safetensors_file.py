"""Files: the round trip, and one clear message for every mistake."""

import json
import os
import struct
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from evonorm_jax.errors import UserError
from evonorm_jax.interop import load_timm_weights, save_timm_weights, timm_tensors
from evonorm_jax.interop.safetensors_file import read_safetensors
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
        ("x" * 300, None, "is not there; name a"),
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


def raw(header, data=bytes(8), length=None):
    """A safetensors file with any header, and any claim of its length."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def one(dtype="F32", shape=(2,), offsets=(0, 8), name="a"):
    return {name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


DAMAGED = "is not a safetensors file, or a damaged one"
HOSTILE = {
    "float8": (raw(one("F8_E4M3", (8,))), "tensor 'a' is F8_E4M3, as are 1 of 1, which NumPy cann"),
    "another float8": (raw(one("F8_E5M2", (8,))), "'a' is F8_E5M2"),
    "float4": (raw(one("F4", (16,))), "'a' is F4|" + DAMAGED),
    "complex": (raw(one("C64", (1,))), "'a' is C64|" + DAMAGED),
    "a type that is none": (raw(one("XX")), DAMAGED),
    "cut": (raw(one())[:-4], DAMAGED),
    "cut in its header": (raw(one())[:20], DAMAGED),
    "longer than it says": (raw(one(), bytes(12)), DAMAGED),
    "overlapping tensors": (raw(one() | one(name="b")), DAMAGED),
    "a hole": (raw(one(offsets=(4, 12)), bytes(12)), DAMAGED),
    "a huge tensor": (raw(one(shape=(2**40, 2**40))), DAMAGED),
    "a huge tensor of nothing": (raw(one(shape=(0, 2**62), offsets=(0, 0)), b""), DAMAGED),
    "a negative side": (raw(one(shape=(-2,))), DAMAGED),
    "offsets backwards": (raw(one(offsets=(8, 0))), DAMAGED),
    "offsets beyond the end": (raw(one(offsets=(0, 2**62), shape=(2**60,))), DAMAGED),
    "a header of 2**63 bytes": (raw(one(), length=2**63), DAMAGED),
    "a header of 99 MB": (raw(one(), length=99_000_000), DAMAGED),
    "no header": (raw(one(), length=0), DAMAGED),
    "no JSON": (raw(b"hello!!!"), DAMAGED),
    "deep JSON": (raw(b"[" * 100_000), DAMAGED),
    "no UTF-8": (raw(b'{"\xff":1}'), DAMAGED),
    "notes that are no text": (raw({"__metadata__": {"a": 1}}, b""), DAMAGED),
    "NaN": (
        raw(one() | one(name="b", offsets=(8, 16)), struct.pack("<4f", 0, 1, 2, float("nan"))),
        r"1 of 2 tensors are not finite as float32, the first is 'b' \(1 of 2 values",
    ),
    "infinity": (raw(one(), struct.pack("<2f", float("inf"), -float("inf"))), r"'a' \(2 of 2 val"),
    "bfloat16 NaN": (raw(one("BF16", (4,)), b"\xc0\x7f" * 4), r"'a' \(4 of 4 values"),
    "beyond float32": (raw(one("F64", (1,)), struct.pack("<d", 1e300)), r"'a' \(1 of 1 values"),
}


@pytest.mark.hostile
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_lies_is_one_message(tmp_path, kind):
    contents, message = HOSTILE[kind]
    path = tmp_path / "weights.safetensors"
    path.write_bytes(contents)
    with pytest.raises(UserError, match=message) as raised:
        read_safetensors(path)
    assert str(path) in str(raised.value)


@pytest.mark.hostile
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "endless.safetensors").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a named pipe"), ("endless", "a link to /dev/zero, a device")):
        with pytest.raises(UserError, match=rf"{name}\.safetensors' is {kind}, but must be a reg"):
            read_safetensors(tmp_path / f"{name}.safetensors")


def test_whole_files_of_every_type_are_read(tmp_path):
    path = tmp_path / "weights.safetensors"
    types = ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
    tensors = {name: np.arange(3).astype(name) for name in types}
    tensors["bfloat16"] = np.arange(3).astype(ml_dtypes.bfloat16)
    save_file(tensors, path)
    for name, tensor in read_safetensors(path).items():
        np.testing.assert_array_equal(tensor, tensors[name], strict=True)


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
