"""The image files in class folders: which are left out, what they are called, which are copies of each other."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from hashlib import file_digest, sha256
from pathlib import Path

from tqdm import tqdm

from dynamic.errors import UserError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}
_SYSTEM = {"__macosx", "thumbs.db", "desktop.ini"}
"""What operating systems leave in folders, beside names that begin with a dot."""

READERS = 16
"""Threads; files are waited for more than they are hashed."""

_GLANCE = 4096
"""Bytes from the middle of two files of one size that tell most of them apart; headers are often the same."""

MANY = 5000
"""Files that take long enough to read for a progress bar."""


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An image in a class folder.

    Attributes:
        path: to open it by.
        key: its path below the root with ``/`` between folders, as text: see :func:`as_text`.
        label: class index.
        size: in bytes.
    """

    path: Path
    key: str
    label: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What lies in class folders.

    Attributes:
        images: folder by folder in the order of the classes that were given, by name within each.
        hidden: images with a hidden name or in a hidden folder; left out.
        others: files that are no images.
    """

    images: list[ImageFile]
    hidden: list[Path]
    others: list[Path]


def list_images(root: Path, index: Mapping[str, int]) -> Listing:
    """The files in the class folders ``index`` names, at any depth, each with its class index.

    Raises:
        UserError: two files have one name as text.
    """
    images, hidden, others = [], [], []
    for folder, label in index.items():
        for path in sorted((root / folder).rglob("*")):
            is_image = path.suffix.lower() in _SUFFIXES
            if any(is_hidden(part) for part in path.relative_to(root / folder).parts):
                if is_image and path.is_file():
                    hidden.append(path)
            elif path.is_file():
                if is_image:
                    key = as_text(path.relative_to(root).as_posix())
                    images.append(ImageFile(path=path, key=key, label=label, size=path.stat().st_size))
                else:
                    others.append(path)
    for same in _grouped(images, lambda file: file.key):
        raise UserError(f"{root} holds two files called {same[0].key}, one of them in bytes that are not UTF-8: rename one")
    return Listing(images=images, hidden=hidden, others=others)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is there for programs: ``.ipynb_checkpoints``, ``._cat.jpg``, ``__MACOSX``, ``Thumbs.db``."""
    return name.startswith(".") or name.lower() in _SYSTEM


def as_text(name: str) -> str:
    """A file's name as text that any table can hold: bytes that are not UTF-8 as ``\\\\xe9``.

    >>> as_text("café.jpg"), as_text(os.fsdecode(b"caf\\xe9.jpg"))
    ('café.jpg', 'caf\\\\xe9.jpg')
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def copies(files: Sequence[ImageFile]) -> list[list[ImageFile]]:
    """Files of the same content, in groups of two and more; within each by key. Empty and unreadable files are in none.

    Only files whose sizes and whose middles agree are read whole.
    """
    groups = _grouped(sorted((file for file in files if file.size), key=lambda file: file.key), lambda file: file.size)
    for fingerprint in (_glance, _whole):
        suspects = [file for group in groups for file in group]
        with ThreadPoolExecutor(READERS) as pool:
            bar = tqdm(
                desc="comparing files", total=len(suspects), unit="file", file=sys.stderr, disable=len(suspects) < MANY
            )
            with bar:
                found = {}
                for file, print_ in zip(suspects, pool.map(fingerprint, suspects), strict=True):
                    found[file.path] = print_
                    bar.update()
        readable = [file for file in suspects if found[file.path] is not None]
        groups = _grouped(readable, lambda file: (file.size, found[file.path]))  # noqa: B023 - used at once
    return groups


def without_copies(files: Sequence[ImageFile]) -> tuple[list[ImageFile], list[tuple[ImageFile, ImageFile]]]:
    """Of each content one file, that whose name comes first; and each other one with the file that stands for it.

    A copy says nothing new: counted, it would make intervals narrower than they are, and its name could put it on the other
    side of a split.
    """
    dropped = [(copy, group[0]) for group in copies(files) for copy in group[1:]]
    gone = {copy.path for copy, _ in dropped}
    return [file for file in files if file.path not in gone], dropped


def describe_copies(dropped: Sequence[tuple[ImageFile, ImageFile]]) -> str:
    """What was left out, in one line.

    >>> kept = ImageFile(path=Path("a/1.jpg"), key="a/1.jpg", label=0, size=9)
    >>> describe_copies([(ImageFile(path=Path("b/2.jpg"), key="b/2.jpg", label=1, size=9), kept)])
    'left out 1 copies of images, such as b/2.jpg, which is a/1.jpg; 1 of them in another class'
    """
    copy, kept = dropped[0]
    line = f"left out {len(dropped)} copies of images, such as {copy.key}, which is {kept.key}"
    elsewhere = sum(copy.label != kept.label for copy, kept in dropped)
    return line + (f"; {elsewhere} of them in another class" if elsewhere else "")


def tell_left_out(listing: Listing) -> None:
    """Say on stderr which files are no images, or hidden."""
    if listing.hidden:
        tell(f"left out {len(listing.hidden)} hidden images, such as {listing.hidden[0]}")
    if listing.others:
        tell(f"ignored {len(listing.others)} files that are not images, such as {listing.others[0]}")


@cache
def tell(line: str) -> None:
    """Print a line on stderr, once a process however often a folder is opened."""
    print(line, file=sys.stderr)


def _grouped(files: Iterable[ImageFile], by: Callable[[ImageFile], Hashable]) -> list[list[ImageFile]]:
    groups: dict[Hashable, list[ImageFile]] = defaultdict(list)
    for file in files:
        groups[by(file)].append(file)
    return [group for group in groups.values() if len(group) > 1]


def _glance(file: ImageFile) -> bytes | None:
    try:
        with file.path.open("rb") as opened:
            opened.seek(max(file.size - _GLANCE, 0) // 2)
            return sha256(opened.read(_GLANCE)).digest()
    except PermissionError:  # named later, as every image that cannot be read
        return None


def _whole(file: ImageFile) -> bytes | None:
    with file.path.open("rb") as opened:
        return file_digest(opened, "sha256").digest()
