"""Which of a network's classes each class folder is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from dynamic.errors import UserError
from dynamic.files import ASSETS
from dynamic.models import ModelInfo, class_names
from oracle.data.listing import as_text, tell

_WNIDS = ASSETS / "imagenet_wnids.txt"


def class_indices(folders: list[str], info: ModelInfo, class_map: Path | None) -> dict[str, int]:
    """Which of the network's classes each folder is.

    By ``class_map``, a JSON file, if given. Else by wnid for a network of ImageNet's 1000 classes. Else there must be as
    many folders as classes: folders whose names are all whole numbers are the classes in numeric order, so 0, 1, …, 11
    are the class indices themselves; other folders are the classes in sorted order.

    Raises:
        UserError: none of these fits, or the map lacks a folder or leaves the network's range.

    >>> import dynamic
    >>> class_indices(["cat", "dog"], dynamic.load("mobilenet_v2-slim", weights=None, classes=2).info, None)
    {'cat': 0, 'dog': 1}
    """
    if class_map is not None:
        return _mapped(folders, info, class_map)
    if info.classes == 1000 and all(re.fullmatch(r"n\d{8}", folder) for folder in folders):
        known = {wnid: index for index, wnid in enumerate(_WNIDS.read_text().split())}
        unknown = [folder for folder in folders if folder not in known]
        if not unknown:
            return {folder: known[folder] for folder in folders}
        raise UserError(
            f"{', '.join(unknown[:5])} are not among ImageNet's 1000 classes: remove them or pass --class-map FILE"
        )
    if len(folders) != info.classes:
        raise UserError(
            f"the data has {len(folders)} class folders ({', '.join(map(as_text, folders[:4]))}, …), {info.name} has "
            f"{info.classes} classes: pass --class-map FILE.json (folder name -> class index) or weights for these classes"
        )
    if all(re.fullmatch(r"[0-9]+", folder) for folder in folders):
        folders = _numbered(folders)
    return {folder: position for position, folder in enumerate(folders)}


def _numbered(folders: list[str]) -> list[str]:
    """In numeric order; where that can be taken for another one, that is said."""
    ordered = sorted(folders, key=int)
    numbers = [int(folder) for folder in ordered]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"two class folders have one number ({', '.join(ordered[:4])}, …): pass --class-map FILE.json")
    if numbers != list(range(len(numbers))):
        tell(f"class folders {ordered[0]} to {ordered[-1]} are taken for classes 0 to {len(ordered) - 1}, in numeric order")
    if ordered != sorted(folders):
        tell(
            f"class folders are numbers, taken in numeric order ({', '.join(ordered[:3])}, …); a network trained with "
            f"torchvision's ImageFolder has them as text ({', '.join(sorted(folders)[:3])}, …): pass --class-map"
        )
    return ordered


def _mapped(folders: list[str], info: ModelInfo, class_map: Path) -> dict[str, int]:
    try:
        mapped = json.loads(class_map.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the class map {class_map}: {error}") from error
    names = {folder: as_text(folder) for folder in folders}
    lacking = [name for name in names.values() if not isinstance(mapped, dict) or not isinstance(mapped.get(name), int)]
    if lacking:
        raise UserError(f"{class_map} must give a class index for every folder; it lacks {', '.join(lacking[:5])}")
    wrong = [name for name in names.values() if not 0 <= mapped[name] < info.classes]
    if wrong:
        raise UserError(f"{class_map}: the index of {', '.join(wrong[:5])} is not among the {info.classes} of {info.name}")
    return {folder: mapped[name] for folder, name in names.items()}


def names_of_classes(name: str, index: Mapping[str, int], info: ModelInfo) -> tuple[str, ...]:
    """The folders' names in an image folder of one's own; elsewhere what the network's classes are called."""
    if name != "imagefolder":
        return class_names(info)
    folders = {position: as_text(folder) for folder, position in index.items()}
    return tuple(folders.get(position, f"class {position}") for position in range(info.classes))
