"""What lies in a folder of class folders: the images that are read, and those that are left out.

No file is opened. What a person may take for a part of the data set and is none (hidden folders,
images in subfolders, formats that are not read) is counted, to be said once.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib

from evonorm_jax.errors import UserError
from evonorm_jax.input_files import check_regular, printable, some

#: Endings of the images that both readers decode; .jfif is JPEG by another name.
EXTENSIONS = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".webp")

# Endings of images that are left out. Other files (notes, archives) are no news to anyone.
_UNREAD_EXTENSIONS = (
    *(".arw", ".avif", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".ico", ".jp2", ".jxl", ".nef"),
    *(".pgm", ".pnm", ".ppm", ".psd", ".raf", ".svg", ".tga", ".tif", ".tiff"),
)
# Folders that tools make beside those of a person: Synology, macOS's zip, network shares, Windows.
_TOOLS = ("@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information")


@dataclasses.dataclass
class LeftOut:
    """What is left out, as paths, in the order of the scan.

    Attributes:
      hidden: Hidden folders.
      nested: Images in subfolders of a class.
      loose: Images beside the class folders.
      unread: Images in a format that is not read.
    """

    hidden: list[str] = dataclasses.field(default_factory=list)
    nested: list[str] = dataclasses.field(default_factory=list)
    loose: list[str] = dataclasses.field(default_factory=list)
    unread: list[str] = dataclasses.field(default_factory=list)

    def notes(self) -> list[str]:
        """Says what is left out: one sentence of each kind that there is."""
        notes = []
        if self.hidden:
            notes.append(f"Hidden folders are no classes and left out: {some(self.hidden)}.")
        if self.nested:
            notes.append(
                f"{_images(self.nested)} in subfolders of a class left out, the first"
                f" '{self.nested[0]}': an image must lie directly in the folder of its class."
            )
        if self.loose:
            notes.append(
                f"{_images(self.loose)} beside the class folders left out, the first"
                f" '{self.loose[0]}': an image must lie in the folder of its class."
            )
        if self.unread:
            notes.append(
                f"{_images(self.unread)} left out, because their format is not read"
                f" ({_endings(self.unread)}), the first '{self.unread[0]}'. Convert them to one of"
                f" {', '.join(EXTENSIONS)}."
            )
        return notes


@dataclasses.dataclass(frozen=True)
class ClassFiles:
    """The sorted images of each class, by the sorted names of the classes."""

    folder: pathlib.Path
    files: dict[str, list[str]]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of their labels."""
        return tuple(printable(name) for name in self.files)


def scan_classes(folder: pathlib.Path, left_out: LeftOut) -> ClassFiles:
    """Lists `<folder>/<class>/<image>`.

    Args:
      folder: A split, or the root of a data set without splits.
      left_out: Takes up what is no part of the data set.

    Raises:
      UserError: There are fewer than two classes, one of them has no image, or what is called an
        image is no regular file.
    """
    classes = []
    for entry in _entries(folder):
        if not entry.is_dir():
            if _is_image(entry.name):
                left_out.loose.append(entry.path)
        elif is_hidden(entry.name):
            left_out.hidden.append(entry.path)
        else:
            classes.append(entry.name)
    if len(classes) < 2:
        inner = folder / classes[0] if classes else folder
        hint = f" Is '{inner}' the one to name?" if classes and has_folders(inner) else ""
        number = "1 class folder" if classes else "no class folders"
        raise UserError(
            f"'{folder}' has {number}, but a classifier needs two or more: expected <class>/<image>"
            f" below it.{hint}"
        )
    files = {name: _scan_class(folder / name, left_out) for name in classes}
    return ClassFiles(folder, files)


def is_split(folder: pathlib.Path) -> bool:
    """Whether a folder can hold class folders.

    A folder of images is a class, whatever its name: `train` beside `bus` and `tram`.
    """
    return folder.is_dir() and not holds_images_alone(folder)


def is_flat(root: pathlib.Path) -> bool:
    """Whether there are images in folders of the root, which makes these folders classes."""
    return any(
        entry.is_dir() and not is_hidden(entry.name) and _has_images(pathlib.Path(entry.path))
        for entry in _entries(root)
    )


def holds_images_alone(folder: pathlib.Path) -> bool:
    """Whether there are images in a folder, but no folders: then it is a class, or not sorted."""
    return _has_images(folder) and not has_folders(folder)


def has_folders(folder: pathlib.Path) -> bool:
    """Whether there are folders in a folder that may be classes."""
    return any(entry.is_dir() and not is_hidden(entry.name) for entry in _entries(folder))


def is_hidden(name: str) -> bool:
    """Whether a folder of that name was made by a tool, such as `.ipynb_checkpoints`."""
    return name.startswith(".") or name in _TOOLS


def _entries(folder: str | pathlib.Path) -> list[os.DirEntry[str]]:
    return sorted(os.scandir(folder), key=lambda entry: entry.name)


def _scan_class(folder: pathlib.Path, left_out: LeftOut) -> list[str]:
    files, nested, unread = [], [], []
    for entry in _entries(folder):
        if entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith("."):
            if not entry.is_file():  # costs nothing for an ordinary file
                check_regular(entry.path)
            files.append(entry.path)
        elif _is_image(entry.name):
            unread.append(entry.path)
        elif entry.is_dir(follow_symlinks=False):
            if is_hidden(entry.name):
                left_out.hidden.append(entry.path)
            else:
                nested += _images_below(entry.path)
    if not files:
        found = f"; it has {len(nested)} in subfolders" if nested else ""
        found += f"; it has {_images(unread)} with {_endings(unread)}" if unread else ""
        raise UserError(
            f"The class folder '{folder}' holds no image with one of the endings"
            f" {', '.join(EXTENSIONS)}{found}. Put its images there, or remove the folder."
        )
    left_out.nested += nested
    left_out.unread += unread
    return files


def _images_below(folder: str) -> list[str]:
    return [
        os.path.join(path, name)
        for path, _, names in os.walk(folder)
        for name in sorted(names)
        if _is_image(name)
    ]


def _is_image(name: str) -> bool:
    return name.lower().endswith((*EXTENSIONS, *_UNREAD_EXTENSIONS)) and not name.startswith(".")


def _has_images(folder: pathlib.Path) -> bool:
    return any(_is_image(entry.name) for entry in _entries(folder))


def _images(paths: list[str]) -> str:
    return f"{len(paths):,} image{'s' if len(paths) > 1 else ''}"


def _endings(paths: list[str]) -> str:
    """Counts endings: `.heic: 12, .tif: 3`."""
    counts = collections.Counter(os.path.splitext(path)[1].lower() for path in paths)
    return ", ".join(f"{ending}: {count}" for ending, count in sorted(counts.items()))
