"""Files that lie: each is one message, and nothing of the size that they claim is allocated."""

import io
import random
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from evonorm_jax import npz_file
from evonorm_jax.errors import UserError
from evonorm_jax.npz_file import NpzFile

ARRAY = np.arange(12, dtype=np.int64).reshape(3, 4)


def npy(array=ARRAY, header=None, version=b"\x01\x00"):
    """An .npy file, with another header where one is given."""
    stream = io.BytesIO()
    np.save(stream, array)
    if header is None:
        return stream.getvalue()
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header.encode("latin1") + array.tobytes()


def dictionary(descr="'<i8'", shape="(3, 4)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def lying(**fields):
    """An archive whose array has another header than it should."""
    return archive(npy(header=dictionary(**fields)))


def archive(content=None, *, name="a.npy", method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        file.writestr(name, npy() if content is None else content)
    return stream.getvalue()


def patched(contents, *, directory=(), local=()):
    """Changes fields of the entry in the directory, and of the local header: (offset, bytes)."""
    data = bytearray(contents)
    for start, changes in ((data.index(b"PK\x01\x02"), directory), (0, local)):
        for offset, value in changes:
            data[start + offset : start + offset + len(value)] = value
    return bytes(data)


def sizes(number):
    return struct.pack("<II", number, number)


def twice():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.writestr("a.npy", npy())
        file.writestr("a.npy", npy())
    return stream.getvalue()


def cut_stream():
    contents = archive(npy(np.zeros(5000)), method=zipfile.ZIP_DEFLATED)
    broken = bytearray(contents)
    broken[60:70] = b"\xff" * 10
    return bytes(broken)


def flipped():
    contents = bytearray(archive())
    contents[contents.index(b"PK\x01\x02") - 20] ^= 1
    return bytes(contents)


HUGE = "(1000000, 1000000, 8)"  # 58 TiB of int64
HOSTILE = {
    "a text": (b"hello", "cannot be read as an .npz file"),
    "empty": (b"", "cannot be read as an .npz file"),
    "an .npy file": (npy(), "cannot be read as an .npz file"),
    "an archive cut in half": (archive()[:150], "cannot be read as an .npz file"),
    "the directory alone": (archive()[-100:], "cannot be read|is damaged|claims"),
    "a huge header": (
        lying(shape=HUGE),
        "64,000,000,000,000 bytes, but 96",
    ),
    "a header of more digits": (
        lying(shape=f"({'9' * 400},)"),
        "bytes, but",
    ),
    "digits without end": (lying(shape=f"({'9' * 5000},)"), "is damaged"),
    "a smaller header": (
        lying(shape="(2, 4)"),
        "64 bytes, but 96 are there",
    ),
    "a negative side": (lying(shape="(-3, -4)"), "but 96 are there"),
    "sides that are no numbers": (lying(shape="('a',)"), "is damaged"),
    "a shape that is no tuple": (lying(shape="12"), "is damaged"),
    "a type that is none": (lying(descr="'hello'"), "is damaged"),
    "a type without size": (
        lying(descr="'<U0'"),
        "neither numbers nor te",
    ),
    "a type with fields": (
        lying(descr="[('a', '<i8')]"),
        "neither numbers nor text",
    ),
    "times": (archive(npy(ARRAY.astype("M8[s]"))), "neither numbers nor text"),
    "objects": (
        lying(descr="'|O'"),
        "Python objects, which are never read",
    ),
    "a header that is code": (archive(npy(header="__import__('os').abort()\n")), "is damaged"),
    "a header that is deep": (archive(npy(header="(" * 9000)), "is damaged"),
    "a header that is nothing": (archive(npy(header="")), "is damaged"),
    "a header longer than the file": (
        archive(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + dictionary().encode()),
        "is damaged",
    ),
    "another version": (archive(npy(header=dictionary(), version=b"\x09\x00")), "is damaged"),
    "no array": (archive(b"hello"), "is damaged or no array"),
    "no bytes": (archive(b""), "is damaged or no array"),
    "a directory that claims 4 GB": (
        patched(archive(), directory=[(20, sizes(0xFFFFFFF0))]),
        "claims 4,294,967,280 bytes of a file that has",
    ),
    "an entry that claims to grow": (
        patched(archive(), directory=[(24, struct.pack("<I", 0x7FFFFFFF))]),
        "claims 2,147,483,647 bytes, stored in 224",
    ),
    "a bomb beyond the algorithm": (
        patched(
            archive(method=zipfile.ZIP_DEFLATED), directory=[(24, struct.pack("<I", 0x7FFFFFFF))]
        ),
        "claims 2,147,483,647 bytes, stored in",
    ),
    "encrypted": (patched(archive(), directory=[(8, b"\x01\x00")]), "it is encrypted"),
    "an unknown compression": (
        patched(archive(), directory=[(10, b"\x63\x00")], local=[(8, b"\x63\x00")]),
        "compressed by the method 99",
    ),
    "LZMA": (archive(method=zipfile.ZIP_LZMA), "compressed by the method 14"),
    "another checksum": (flipped(), r"is damaged or no array \(Bad CRC-32"),
    "a broken stream": (cut_stream(), "is damaged"),
    "another name inside": (patched(archive(), local=[(30, b"b")]), "is damaged"),
    "an entry beyond the end": (
        patched(archive(), directory=[(42, struct.pack("<I", 0x7FFFFFFF))]),
        "is damaged|cannot be read",
    ),
    "the same name twice": (twice(), "it is there twice"),
    "another name": (archive(name="../../a.npy"), r"has no array 'a': it has '\.\./\.\./a'"),
    "no name": (archive(name=".npy"), "has no array 'a': it has ''"),
    "a name of signs": (
        archive(name="\x1b[31m\n.npy"),
        r"it has '\\x1b\[31m\\n'",
    ),
}


@pytest.mark.hostile
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_lies_is_one_message(tmp_path, kind):
    contents, message = HOSTILE[kind]
    path = tmp_path / "set.npz"
    path.write_bytes(contents)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message) as raised, NpzFile(path) as file:
            file.read("a")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert peak < 2**23


@pytest.mark.hostile
def test_a_bomb_within_the_algorithm(tmp_path, monkeypatch):
    zeros = np.zeros(2**20, np.uint8)
    np.savez_compressed(tmp_path / "a.npz", zeros=zeros, ones=np.ones(100))
    with NpzFile(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file.read("zeros"), zeros)
        monkeypatch.setattr(npz_file, "LARGE_BYTES", 2**19)
        with pytest.raises(UserError, match=r"would become 1,048,704, which looks like a decompr"):
            file.read("zeros")
        monkeypatch.setattr(npz_file, "MAX_BYTES", 2**19)
        with pytest.raises(UserError, match=r"at most 524,288 are read"):
            file.read("zeros")
        assert file.read("ones").sum() == 100


@pytest.mark.hostile
def test_damage_anywhere_is_one_message_or_the_truth(tmp_path):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, a=ARRAY)
    contents = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(contents)
        for _ in range(generator.choice([1, 1, 4])):
            damaged[generator.randrange(len(damaged))] = generator.choice([0, 255, 1, 80])
        path.write_bytes(damaged)
        try:
            with NpzFile(path) as file:
                np.testing.assert_array_equal(file.read("a"), ARRAY)
        except UserError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "f2", "f4", "?", "c8", "<U3", "S2"])
def test_arrays_of_every_kind_come_back(tmp_path, dtype):
    arrays = {
        "some": np.arange(6).astype(dtype).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).astype(dtype).reshape(2, 3)),
        "none": np.zeros((0, 3), dtype),
        "scalar": np.array(1).astype(dtype),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        with NpzFile(tmp_path / "a.npz") as file:
            assert file.names == tuple(arrays)
            for name, array in arrays.items():
                assert file.header(name) == (array.shape, array.dtype)
                np.testing.assert_array_equal(file.read(name), array, strict=True)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"There is no file '.*none\.npz'"):
        NpzFile(tmp_path / "none.npz")
    with pytest.raises(UserError, match="is a folder, but must be a regular file"):
        NpzFile(tmp_path)
