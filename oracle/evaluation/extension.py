"""More images for a run that has been made with fewer: only the new ones are evaluated."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dynamic.configuration import Configuration
from dynamic.errors import UserError
from dynamic.models import ModelInfo
from oracle.data.sources import SPLITS, ImageSource
from oracle.outcomes import extend_store, largest_split, recover_store, stored_identity
from oracle.runs import Run, open_images
from oracle.settings import RunSettings


def make_room(
    run: Run,
    settings: RunSettings,
    info: ModelInfo,
    source: ImageSource,
    configurations: Sequence[Configuration],
    macs: np.ndarray,
    identity: Mapping[str, str],
) -> None:
    """Where the run in ``run`` is the one asked for with fewer images, extend its store; else leave it as it is.

    Images keep their order and their split however many are asked for, so those of the run are the first of each split.
    Until the new ones are evaluated the run counts as not finished.

    Args:
        run: the folder.
        settings: what is asked for.
        info: of the network.
        source: the images asked for.
        configurations, macs: of the store's columns.
        identity: of the store asked for.

    Raises:
        UserError: the run holds more images than are asked for, or was damaged.
    """
    recover_store(run.outcomes_store)
    if not (run.outcomes_store.exists() and run.record_file.exists()):
        return
    stored, record = stored_identity(run.outcomes_store), run.record
    if stored == dict(identity):
        return
    earlier = _earlier(run, settings, info, source, stored, identity)
    if earlier is None:
        return  # another run
    if not set(earlier.keys) <= set(source.keys):
        raise UserError(
            f"{run.folder} holds {len(earlier.keys)} images, --images {settings.images} asks for {len(source.keys)}: "
            "ask for as many or more, or choose another --out"
        )
    if record.files:
        run.verify_all()
    run.write_record(replace(record, files={}))
    for path in (run.labels, run.summary):  # of fewer images; they are made anew
        path.unlink(missing_ok=True)
    print(f"{run.folder} has {len(earlier.keys)} of {len(source.keys)} images: the others are added", file=sys.stderr)
    extend_store(run.outcomes_store, source, configurations, macs, identity)


def _earlier(
    run: Run,
    settings: RunSettings,
    info: ModelInfo,
    source: ImageSource,
    stored: Mapping[str, str],
    identity: Mapping[str, str],
) -> ImageSource | None:
    """The images that the run's store is for, of the source asked for; None where it is for others."""
    splits = tuple(source.identity.get("splits", ",".join(SPLITS)).split(","))
    # What the record says, and what is there: a larger store may have been made just before a run was killed.
    for images in dict.fromkeys((run.record.settings.get("images"), largest_split(run.outcomes_store))):
        earlier = open_images(replace(settings, images=images), info, splits)
        if stored == dict(identity) | earlier.identity:
            return earlier
    return None
