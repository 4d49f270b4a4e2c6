"""The outcomes store: what every configuration made of every image, in one zarr that xarray reads.

Images are written in regions of whole chunks, the data first and ``status`` last. A region counts only once its status is
there, so a run that is killed anywhere, started again, ends with the same bytes. One process writes: who makes a store holds
the run (:func:`dynamic.lock.held`).
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr

from dynamic.attributes.registry import built_in
from dynamic.configuration import Configuration, varied
from dynamic.errors import UserError
from oracle.data.sources import ImageSource

PENDING, EVALUATED, UNREADABLE = 0, 1, 2
"""Values of ``status``."""

BLOCK = 512
"""Images of :func:`blocks`: at 1,609 configurations 5 MB of outcomes, and 60 MB of what is made of them on the way."""

_LARGE = ("predicted", "p_true")
"""What grows with images times configurations."""

_EXPLAIN = {
    "weights_digest": "weights",
    "space": "configuration space",
    "images": "images",
    "walk": "memory setting",
    "split_rule": "rule of the splits",
}


class OutcomesStore:
    """``RUN/outcomes.zarr``: created if missing, resumed if it belongs to the same run.

    Args:
        path: of the zarr folder.
        source: the images.
        configurations: the columns, in order.
        macs: (configurations,) int64 MACs of one image.
        identity: what must agree to resume (weights, data, space, dtype, ...).
        facts: further attributes, not compared (versions, names for people); those of the creation are kept.
        region: images a chunk.

    Raises:
        UserError: the store belongs to another run; the message names every difference.
    """

    def __init__(
        self,
        path: Path,
        source: ImageSource,
        configurations: Sequence[Configuration],
        macs: np.ndarray,
        identity: Mapping[str, str],
        facts: Mapping[str, Any],
        region: int,
    ) -> None:
        self.path = path
        if not path.exists():
            making = _build(path, source, configurations, macs, dict(identity), dict(facts), region)
            os.rename(making, path)
        self._group = open_group(path)
        stored: dict[str, Any] = dict(self._group.attrs)
        compare_identity(path.parent, stored_identity(path), dict(identity))
        # Half of a chunk, which a killed writer never renamed into place: this process holds the run, so nobody writes it.
        for leftover in path.rglob("*.partial"):
            leftover.unlink()
        self.facts: dict[str, Any] = {key: value for key, value in stored.items() if key not in identity}
        self.region = int(self._array("status").chunks[0])
        try:
            self.status: np.ndarray = np.asarray(self._array("status")[:])
        except Exception as error:  # zarr's codecs raise each their own
            raise UserError(f"{path / 'status'} is damaged ({error}): restore a copy, or run anew elsewhere") from error

    def _array(self, name: str) -> zarr.Array[Any]:
        return _array_of(self._group, name)

    def pending(self) -> list[np.ndarray]:
        """The rows to evaluate, region by region: all of one, or what more images added to it."""
        rows = np.flatnonzero(self.status == PENDING)
        starts = np.flatnonzero(np.diff(rows // self.region)) + 1
        return [part for part in np.split(rows, starts) if len(part)]

    def write(self, rows: np.ndarray, predicted: np.ndarray, p_true: np.ndarray, readable: np.ndarray) -> None:
        """Store what :meth:`pending` gave of one region; unreadable images keep their fill values."""
        start = int(rows[0]) // self.region * self.region
        where = slice(start, min(start + self.region, len(self.status)))
        self.status[rows] = np.where(readable, EVALUATED, UNREADABLE)
        for name, values in (("predicted", predicted), ("p_true", p_true)):
            array = self._array(name)
            if len(rows) < where.stop - where.start:  # chunks are written whole, with what was there before
                there = np.asarray(array[where])
                there[rows - start] = values
                values = there
            array[where] = values
        self._array("status")[where] = self.status[where]


def _build(
    path: Path,
    source: ImageSource,
    configurations: Sequence[Configuration],
    macs: np.ndarray,
    identity: dict[str, str],
    facts: dict[str, Any],
    region: int,
) -> Path:
    """Make an empty store beside its place, to be renamed there, so that a half-made one is never resumed."""
    making = path.with_name(path.name + ".making")
    if making.exists():
        shutil.rmtree(making)
    path.parent.mkdir(parents=True, exist_ok=True)
    group = zarr.create_group(making, zarr_format=3)
    group.attrs.update(identity | facts | {"identity": sorted(identity)})
    images, columns = len(source.keys), len(configurations)

    def add(name: str, dims: Sequence[str], dtype: Any, fill: Any, values: np.ndarray | None, unit: str = "") -> None:
        shape = tuple({"image": images, "configuration": columns}[dim] for dim in dims)
        chunks = tuple(region if dim == "image" and values is None else size for dim, size in zip(dims, shape, strict=True))
        array = group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=chunks,
            fill_value=fill,
            dimension_names=tuple(dims),
            attributes={"units": unit} if unit else {},
        )
        if values is not None:
            array[:] = values

    add(
        "predicted",
        ("image", "configuration"),
        "int16" if facts["classes"] < 2**15 else "int32",
        -1,
        None,
        "class index",
    )
    add("p_true", ("image", "configuration"), "float32", 0.0, None, "probability")
    add("status", ("image",), "int8", PENDING, None)
    add("label", ("image",), "int32", -1, source.labels.astype(np.int32), "class index")
    add("image", ("image",), str, "", source.keys.astype(object))
    add("split", ("image",), str, "", source.splits.astype(object))
    for name, values in source.metadata.items():
        add(name, ("image",), values.dtype, 0, values)
    add("configuration", ("configuration",), str, "", np.array([c.id for c in configurations], dtype=object))
    add("macs", ("configuration",), "int64", 0, macs, "multiply-accumulates an image")
    for attribute in dict.fromkeys([*built_in(), *varied(configurations)]):
        for layer in range(len(configurations[0].stride)):
            options = np.array([c.options(attribute)[layer] for c in configurations], dtype="float32")
            add(f"{attribute}_{'ABCDEF'[layer]}", ("configuration",), "float32", 0.0, options)
    # xarray reads this list as "these variables are coordinates".
    coordinates = sorted(set(group.array_keys()) - {"predicted", "p_true", "label", "macs", "image", "configuration"})
    group.attrs["coordinates"] = " ".join(coordinates)
    with warnings.catch_warnings():  # zarr: not yet in the specification; xarray: slow and noisy without
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(making)
    return making


def stored_identity(path: Path) -> dict[str, str]:
    """What must agree for the store at ``path`` to be resumed."""
    attributes: dict[str, Any] = dict(open_group(path, "r").attrs)
    return {key: str(attributes[key]) for key in attributes["identity"]}


def largest_split(path: Path) -> int:
    """How many images of one split the store at ``path`` has, at most."""
    return max(Counter(map(str, np.asarray(_array_of(open_group(path, "r"), "split")[:]))).values())


def extend_store(
    path: Path,
    source: ImageSource,
    configurations: Sequence[Configuration],
    macs: np.ndarray,
    identity: Mapping[str, str],
) -> None:
    """Give a store room for more images; what it knows of its own stays to the last bit.

    The larger store is made beside the old one, which is away only between two renames: see :func:`recover_store`.

    Args:
        path: of the store.
        source: all images, in any order; those of the store are among them, by their keys.
        configurations, macs: as they are in the store.
        identity: of the larger store.
    """
    old = open_group(path, "r")
    facts = {
        key: value for key, value in old.attrs.items() if key not in (*stored_identity(path), "identity", "coordinates")
    }
    before = {name: _array_of(old, name) for name in ("predicted", "p_true", "status")}
    places = {str(key): place for place, key in enumerate(np.asarray(_array_of(old, "image")[:]))}
    region = int(before["status"].chunks[0])
    making = _build(path, source, configurations, macs, dict(identity), facts, region)
    new = open_group(making)
    for start in range(0, len(source.keys), region):
        where = slice(start, min(start + region, len(source.keys)))
        known = np.array([places.get(str(key), -1) for key in source.keys[where]])
        there = known[known >= 0]
        if not len(there):
            continue
        span = slice(int(there.min()), int(there.max()) + 1)
        for name, values in before.items():
            array = _array_of(new, name)
            filled = np.asarray(array[where])
            filled[known >= 0] = np.asarray(values[span])[there - span.start]
            array[where] = filled
    os.rename(path, _set_aside(path))
    os.rename(making, path)
    recover_store(path)


def recover_store(path: Path) -> None:
    """Undo or end what :func:`extend_store` was killed at."""
    aside = _set_aside(path)
    if aside.exists() and not path.exists():
        os.rename(aside, path)
    elif aside.exists():
        shutil.rmtree(aside)


def _set_aside(path: Path) -> Path:
    return path.with_name(path.name + ".before")


def _array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def open_group(path: Path, mode: Literal["r", "r+"] = "r+") -> zarr.Group:
    """The zarr group at ``path``. Raises UserError where it is not an outcomes store."""
    try:
        group = zarr.open_group(path, mode=mode)
        _ = group.attrs["identity"], group["status"]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is not an outcomes store of this project ({error}): delete it or choose another --out"
        ) from error
    return group


def read_outcomes(run: Path) -> xr.Dataset:
    """The outcomes of a run as an xarray Dataset: dims ``image`` and ``configuration``, evaluated images only.

    Attributes of the dataset: everything that identifies the run, and facts about it.

    Raises:
        UserError: no outcomes there, or the run is not finished.

    ``read_outcomes(Path("runs/oracle")).p_true.sel(configuration="s1-2-2-2_d1-1-1-1_k3-3-3-3").mean()`` is the mean
    probability of the true class under the default.
    """
    return load_outcomes(run / "outcomes.zarr")


def load_outcomes(path: Path) -> xr.Dataset:
    """As :func:`read_outcomes`, from the store itself."""
    outcomes = open_outcomes(path)
    with _vouched_for(path):
        return outcomes.load()


def open_outcomes(path: Path) -> xr.Dataset:
    """As :func:`load_outcomes`, but what is large stays on the disk until it is taken, and is read anew each time.

    Take ``predicted`` and ``p_true`` by :func:`blocks`, or select a few configurations or images before ``.values``.
    """
    run = path.parent
    if not path.exists():
        raise UserError(f"no outcomes in {run}: make them with python -m oracle.run --out {run}")
    open_group(path, "r")
    with _vouched_for(path):
        data = xr.open_dataset(path, engine="zarr", cache=False)
        for name, variable in data.variables.items():
            if name not in _LARGE:
                variable.load()
    status = data["status"].values
    if (status == PENDING).any():
        done = int((status != PENDING).sum())
        raise UserError(f"the run in {run} is not finished ({done} of {len(status)} images): start its command again")
    data.attrs["unreadable"] = [str(key) for key in data["image"].values[status == UNREADABLE]]
    return data.isel(image=status == EVALUATED)


def blocks(outcomes: xr.Dataset, images: int = BLOCK) -> Iterator[xr.Dataset]:
    """All images in order, so many at once, each block in memory.

    Args:
        outcomes: as :func:`open_outcomes` or :func:`load_outcomes` gives them, or a selection of them.
        images: of a block.

    Raises:
        UserError: what is on the disk is damaged.
    """
    for start in range(0, outcomes.sizes["image"], images):
        with _vouched_for(outcomes.encoding.get("source", "the outcomes store")):
            block = outcomes.isel(image=slice(start, start + images)).load()
        yield block


@contextmanager
def _vouched_for(path: Path | str) -> Iterator[None]:
    """Raise UserError where what is read within is damaged."""
    try:
        yield
    except Exception as error:  # zarr's codecs raise each their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged ({reason}): restore a copy, or delete it and run again") from error


def stored_configurations(path: Path) -> tuple[Configuration, ...]:
    """The columns of a store, in order."""
    names = np.asarray(open_group(path, "r")["configuration"][:])  # type: ignore[index]
    return tuple(Configuration.parse(str(name)) for name in names)


def compare_identity(
    folder: Path, stored: Mapping[str, str], mine: Mapping[str, str], remedy: str = "choose another --out or delete it"
) -> None:
    """Raise UserError where what is stored in ``folder`` belongs to another run, naming every difference."""
    keys = sorted(stored.keys() | mine.keys())
    different = [
        f"{_EXPLAIN.get(key, key)} is {stored.get(key, 'absent')} there, {mine.get(key, 'absent')} here"
        for key in keys
        if stored.get(key) != mine.get(key)
    ]
    if different:
        raise UserError(f"{folder} holds another run ({'; '.join(different)}): {remedy}")
