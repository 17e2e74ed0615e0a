"""Image files that are damaged, foreign or malicious, and photographs that lie on their side."""

import ast
import collections
import functools
import io
import os
import random
import socket
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from evonorm_jax.data import dataset_config
from evonorm_jax.data.folder import list_class_folder, load_class_folder
from evonorm_jax.data.pillow_images import (
    DECODING_ERRORS,
    MAX_PIXELS,
    decode_image,
    read_image,
    read_orientation,
)
from evonorm_jax.errors import UserError
from tests.data.conftest import smooth_image, write_folder

pytestmark = pytest.mark.hostile

POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
%%BeginPageSetup
0 0 10 10 rectfill showpage
%%EOF
"""


def read(path):
    return read_image(str(path), size=8, resize=8, channels=3)


def encode(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def folder_config(root):
    return dataset_config("own", "folder", path=str(root), in_memory=True, image_size=8)


@functools.cache
def foreign_formats():
    """Encoded images and documents of kinds that are not read."""
    image = Image.fromarray(smooth_image(0, 16, 16))
    forms = ("TIFF", "PPM", "ICO", "PCX", "TGA", "SGI", "PDF", "DDS", "EPS")
    encoded = {form: encode(image, form) for form in forms}
    return encoded | {
        "postscript": POSTSCRIPT,
        "html": b"<!DOCTYPE html><img src=x>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "text": b"hello",
        "zip": b"PK\x03\x04" + bytes(40),
        "python": b"import os\n",
        "zeros": bytes(1000),
        "empty": b"",
    }


@pytest.mark.parametrize("kind", foreign_formats())
def test_other_formats_are_refused_whatever_they_are_called(tmp_path, kind):
    path = tmp_path / "photo.jpg"
    path.write_bytes(foreign_formats()[kind])
    with pytest.raises(UserError, match=r"photo\.jpg' cannot be decoded \(it is none of BMP, GIF"):
        read(path)


def test_no_image_starts_a_program(tmp_path, monkeypatch):
    started = tmp_path / "started"
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f'#!/bin/sh\necho "$@" >> {started}\nexit 0\n')
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    path = tmp_path / "photo.jpg"
    path.write_bytes(POSTSCRIPT)
    with pytest.raises(UserError):
        read(path)
    assert not started.exists()
    # The file is one that starts it where every format is allowed.
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    with Image.open(path) as image, pytest.raises(OSError, match=r".*"):
        image.load()
    assert started.exists()


def test_every_image_file_is_opened_by_one_function():
    root = Path(__file__).parents[2]
    opened = [
        path.relative_to(root).as_posix()
        for folder in ("evonorm_jax", "experiments", "configs")
        for path in sorted((root / folder).rglob("*.py"))
        if "Image.open" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open")
    ]
    assert opened == ["evonorm_jax/data/pillow_images.py"]


def png_of_size(height, width):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def jpeg_of_size(height, width):
    contents = encode(Image.new("RGB", (8, 8)), "JPEG")
    frame = contents.index(b"\xff\xc0")
    sides = struct.pack(">HH", height, width)
    return contents[: frame + 5] + sides + contents[frame + 9 :]


def bmp_of_size(height, width):
    contents = encode(Image.new("RGB", (8, 8)), "BMP")
    return contents[:18] + struct.pack("<ii", width, height) + contents[26:]


def gif_of_size(height, width):
    contents = encode(Image.new("L", (8, 8)), "GIF")
    return contents[:6] + struct.pack("<HH", width, height) + contents[10:]


BOMBS = {
    "png": png_of_size(60_000, 60_000),
    "png of one row": png_of_size(1, 2**31 - 1),
    "jpeg": jpeg_of_size(65_500, 65_500),
    "bmp": bmp_of_size(40_000, 40_000),
    "gif": gif_of_size(65_535, 65_535),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_decompression_bombs_are_refused(tmp_path, kind):
    (tmp_path / "bomb").write_bytes(BOMBS[kind])
    with pytest.raises(UserError, match=r"bomb' cannot be decoded \(.*(178,956,970|178956970)"):
        read(tmp_path / "bomb")


def test_the_limit_is_ours_where_pillow_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "bomb").write_bytes(BOMBS["png"])
    with pytest.raises(UserError, match=r"60000 x 60000 pixels, but at most 178,956,970 are"):
        read(tmp_path / "bomb")
    assert MAX_PIXELS == 2 * (1024 * 1024 * 1024 // 4 // 3)  # Pillow's own


def make_special(path, kind):
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    else:
        targets = {"endless": "/dev/zero", "terminal": "/dev/tty", "loop": "x.jpg", "dangling": "x"}
        path.symlink_to(targets[kind])


SPECIAL = {
    "named pipe": "x.jpg' is a named pipe, but must be a regular file: replace or remove it",
    "folder": "x.jpg' is a folder, but must be",
    "socket": "x.jpg' is a socket, but must be",
    "endless": "x.jpg' is a link to /dev/zero, a device, but must be",
    "terminal": "x.jpg' is a link to /dev/tty, a device, but must be",
    "loop": "x.jpg' cannot be (read|opened) .Too many levels of symbolic links",
    "dangling": "x.jpg' is a link to nothing",
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_opened(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    write_folder(Path("photos"), {"train": (2, 2), "val": (1, 1)})
    make_special(Path("photos/train/bee/x.jpg"), kind)
    with pytest.raises(UserError, match=SPECIAL[kind]):
        list_class_folder(folder_config("photos"))
    with pytest.raises(UserError, match=SPECIAL[kind]):
        read("photos/train/bee/x.jpg")


def test_links_to_images_are_read(tmp_path):
    write_folder(tmp_path, {"train": (2, 2), "val": (1, 1)})
    link = tmp_path / "train" / "bee" / "link.jpg"
    link.symlink_to("000.jpg")
    assert str(link) in list_class_folder(folder_config(tmp_path)).train.paths
    np.testing.assert_array_equal(read(link), read(link.with_name("000.jpg")))


def test_folders_that_cannot_be_listed(tmp_path):
    write_folder(tmp_path, {"train": (2, 2), "val": (1, 1)})
    (tmp_path / "train" / "cow").symlink_to("cow")
    with pytest.raises(UserError, match=r"train/cow' cannot be read \(Too many levels of symbolic"):
        list_class_folder(folder_config(tmp_path))
    for name in ("x" * 300, "y/" * 3000):
        with pytest.raises(UserError, match=r"cannot be read \(File name too long\)"):
            list_class_folder(folder_config(tmp_path / name))
    for name in ("a\0b", "~nobody-of-that-name/photos"):
        with pytest.raises(UserError, match="There is no folder"):
            list_class_folder(folder_config(name))


def test_names_that_are_no_utf8(tmp_path):
    write_folder(tmp_path, {"train": (2, 2), "val": (1, 1)})
    for split in ("train", "val"):
        os.rename(tmp_path / split / "bee", os.fsencode(tmp_path / split) + b"/b\xff\xe9")
    folder = os.fsencode(tmp_path / "train") + b"/b\xff\xe9"
    os.rename(folder + b"/000.jpg", folder + b"/caf\xe9.jpg")
    arrays = load_class_folder(folder_config(tmp_path))
    assert arrays.class_names == ("ant", r"b\xff\xe9")
    assert arrays.train_images.shape == (4, 8, 8, 3)
    Path(os.fsdecode(folder + b"/caf\xe9.jpg")).write_bytes(b"hello")
    with pytest.raises(UserError) as caught:
        load_class_folder(folder_config(tmp_path))
    assert r"b\xff\xe9/caf\xe9.jpg' cannot be decoded" in str(caught.value)
    str(caught.value).encode("ascii")


def tagged(orientation, form, image):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(form, {})
    return encode(image, form, exif=exif, **options)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation, form):
    contents = tagged(orientation, form, Image.fromarray(smooth_image(1, 12, 20)))
    with Image.open(io.BytesIO(contents)) as image:
        assert read_orientation(image) == orientation
        expected = ImageOps.exif_transpose(image).convert("RGB")
        stored = image.convert("RGB")
    assert expected.size == ((20, 12) if orientation < 5 else (12, 20))
    decode = functools.partial(decode_image, io.BytesIO(contents), 3)
    np.testing.assert_array_equal(np.asarray(decode()), np.asarray(expected))
    np.testing.assert_array_equal(np.asarray(decode(upright=False)), np.asarray(stored))


def test_an_orientation_by_hand():
    # EXIF 6: row 0 of the file is the right side of the scene, column 0 its top.
    stored = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
    upright = [[40, 10], [50, 20], [60, 30]]
    contents = tagged(6, "PNG", Image.fromarray(stored))
    assert np.asarray(decode_image(io.BytesIO(contents), 1)).tolist() == upright


def entry(tag=0x0112, kind=3, number=1, value=6):
    return struct.pack("<HHLHH", tag, kind, number, value, 0)


def tiff(*entries, count=None, start=8):
    count = len(entries) if count is None else count
    return b"II*\0" + struct.pack("<LH", start, count) + b"".join(entries)


DAMAGED_EXIF = {
    "nothing": b"",
    "no header": b"hello, world",
    "header alone": b"II*\0",
    "directory beyond the end": tiff(entry(), start=2**31),
    "fewer entries than it says": tiff(entry(tag=1), count=60_000),
    "another type": tiff(entry(kind=4)),
    "many values": tiff(entry(number=9)),
    "orientation 0": tiff(entry(value=0)),
    "orientation 9": tiff(entry(value=9)),
    "cut": tiff(entry())[:-4],
    "big-endian mark, little-endian content": b"MM\0*" + tiff(entry())[4:],
}


@pytest.mark.parametrize("kind", DAMAGED_EXIF)
def test_damaged_exif_leaves_an_image_as_it_is(kind):
    image = Image.new("RGB", (3, 2))
    for prefix in (b"Exif\0\0", b""):
        image.info["exif"] = prefix + DAMAGED_EXIF[kind]
        assert read_orientation(image) == 1
    image.info["exif"] = b"Exif\0\0" + tiff(entry(tag=0x010F), entry())
    assert read_orientation(image) == 6


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_damaged_images_raise_what_is_caught(form):
    options = {"exif": Image.Exif()} if form in ("JPEG", "PNG", "WEBP") else {}
    contents = encode(Image.fromarray(smooth_image(2, 20, 24)), form, **options)
    generator = random.Random(0)
    outcomes = collections.Counter()
    for _ in range(150):
        damaged = bytearray(contents)
        for _ in range(generator.choice([1, 1, 3])):
            place = generator.randrange(min(len(damaged), 400))
            if generator.random() < 0.8:
                damaged[place] = generator.choice([0, 255, generator.randrange(256)])
            else:
                del damaged[place + 1 :]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of bombs and of EXIF
            try:
                outcomes[decode_image(io.BytesIO(damaged), 3).mode] += 1
            except DECODING_ERRORS as error:
                outcomes[type(error).__name__] += 1
    assert sum(outcomes.values()) == 150
    assert outcomes["RGB"] < 150
