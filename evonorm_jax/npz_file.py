"""Arrays in .npz files: what a file says of itself is checked before anything is allocated.

An .npz file is a zip archive of .npy files. Its directory and the headers of its arrays can claim
any size, so that a file of a few bytes could ask for all memory; both are held here against the
size of the file and against each other. Pickled objects, which can run anything, are never read.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from evonorm_jax.errors import UserError
from evonorm_jax.input_files import check_regular, printable

MAX_BYTES = 64 * 2**30  # of one array
LARGE_BYTES = 2**30  # from here on an array must not be compressed to a hundredth: no images are
_LARGE_RATIO = 100
_DEFLATE_RATIO = 1032  # the most that the algorithm of zip can do: 258 bytes by two bits
_HEADER_BYTES = 10_016  # the longest header that numpy reads, with what precedes it
_REMEDY = "write it anew with numpy.savez or numpy.savez_compressed"

# What zipfile and numpy raise for archives and headers that are damaged.
_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    SyntaxError,
    RecursionError,
    MemoryError,
    OverflowError,
    RuntimeError,  # also NotImplementedError: methods of compression that this Python lacks
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class Header(NamedTuple):
    """What the header of an array says."""

    shape: tuple[int, ...]
    dtype: np.dtype


class NpzFile:
    """An open .npz file. It is closed at the end of a `with` block.

    Args:
      path: The file.

    Raises:
      UserError: There is no such file, or it is no .npz file or a damaged one.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = printable(path)
        self._size = check_regular(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except _ERRORS as error:
            raise UserError(
                f"'{self._path}' cannot be read as an .npz file ({_say(error)}): {_REMEDY}."
            ) from error
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._zip.infolist():
            name = entry.filename.removesuffix(".npy")
            if name in self._entries:
                self._zip.close()
                raise self._broken(name, "it is there twice")
            self._entries[name] = entry

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._zip.close()

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arrays."""
        return tuple(self._entries)

    def header(self, name: str) -> Header:
        """Reads the header of an array; what it claims fits the file.

        Raises:
          UserError: There is no such array, or it is of objects, encrypted, compressed in a way
            that numpy does not write, or claims a size that cannot be.
        """
        if name not in self._entries:
            there = ", ".join(map(repr, self.names)) or "none"
            raise UserError(f"'{self._path}' has no array '{name}': it has {there}.")
        entry = self._entries[name]
        self._check_entry(name, entry)
        try:
            with self._zip.open(entry) as stream:
                shape, dtype, length = _parse_header(stream.read(_HEADER_BYTES))
        except _ERRORS as error:
            raise self._broken(name, f"it is damaged or no array ({_say(error)})") from error
        if dtype.hasobject:
            raise self._broken(name, "it holds Python objects, which are never read")
        if dtype.kind not in "biufcSU" or not dtype.itemsize:
            raise self._broken(name, f"its type {dtype} is neither numbers nor text")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size != entry.file_size - length:
            raise self._broken(
                name,
                f"its header says {dtype} {list(shape)}, that is {size:,} bytes, but"
                f" {entry.file_size - length:,} are there",
            )
        return Header(shape, dtype)

    def read(self, name: str) -> np.ndarray:
        """Reads an array.

        Raises:
          UserError: As `header`, or its content is damaged.
        """
        self.header(name)
        try:
            with self._zip.open(self._entries[name]) as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
        except _ERRORS as error:
            raise self._broken(name, f"it is damaged ({_say(error)})") from error

    def _check_entry(self, name: str, entry: zipfile.ZipInfo) -> None:
        """Holds the directory of the archive against the size of the file."""
        if entry.flag_bits & 1:
            raise self._broken(name, "it is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._broken(name, f"it is compressed by the method {entry.compress_type}")
        claimed, stored = entry.file_size, entry.compress_size
        if stored > self._size:
            raise self._broken(
                name, f"it claims {stored:,} bytes of a file that has {self._size:,}"
            )
        ratio = 1 if entry.compress_type == zipfile.ZIP_STORED else _DEFLATE_RATIO
        if claimed > ratio * stored or claimed > MAX_BYTES:
            raise self._broken(
                name,
                f"it claims {claimed:,} bytes, stored in {stored:,} (at most {MAX_BYTES:,} are"
                " read)",
            )
        if claimed > LARGE_BYTES and claimed > _LARGE_RATIO * stored:
            raise self._broken(
                name,
                f"{stored:,} bytes would become {claimed:,}, which looks like a decompression bomb",
            )

    def _broken(self, name: str, what: str) -> UserError:
        return UserError(f"'{self._path}', array {name!r}: {what}; {_REMEDY}.")


def _parse_header(start: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    """Returns shape, dtype and length of the header that an .npy file starts with."""
    stream = io.BytesIO(start)
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"version {version[0]}.{version[1]} of the format")
    shape, _, dtype = readers[version](stream)
    return shape, dtype, stream.tell()


def _say(error: Exception) -> str:
    """What an error says, on one line of bounded length: it may quote the file."""
    return " ".join(str(error).split())[:200] or type(error).__name__
