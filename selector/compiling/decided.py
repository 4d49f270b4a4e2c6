"""What policies of a run decided about its test images in float32: kept, so that other precisions are put beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynamic.errors import UserError
from dynamic.integrity import read_arrays, write_arrays
from oracle.data.digests import digest_of
from oracle.runs import Run
from selector.compiling.opening import open_graphs
from selector.compiling.places import places
from selector.policies.base import Policy
from selector.policies.objectives import Objective
from selector.policies.running import PolicyRun

DECIDED = "decided.safetensors"
"""In a folder of float32 graphs."""

Setting = tuple[Policy, Objective | None, float | None]


def keep_decided(
    place: Path, settings: Sequence[Setting], runs: Sequence[PolicyRun], keys: np.ndarray, labels: np.ndarray
) -> None:
    """Keep what came of policies at their settings.

    Args:
        place: folder of the run's graphs in float32.
        settings: policies, objectives and dials.
        runs: what came of each, of N images.
        keys, labels: (N,) of the images.
    """
    arrays = {"images": _letters(digest_of(keys, labels))}
    for setting, run in zip(settings, runs, strict=True):
        name = _name(setting)
        arrays |= {f"{name} columns": run.columns.astype(np.int32), f"{name} predicted": run.predicted.astype(np.int32)}
        arrays[f"{name} macs"] = run.macs.astype(np.float64)
    write_arrays(place / DECIDED, arrays)


def decided_in_float32(
    run: Run, place: Path, settings: Sequence[Setting], keys: np.ndarray, labels: np.ndarray
) -> list[PolicyRun] | None:
    """What was kept beside graphs of the same policies about the same images; None where nothing was.

    Args:
        run: whose policies and network.
        place: folder of its graphs in another precision.
        settings: policies, objectives and dials.
        keys, labels: (N,) of the images.
    """
    for beside in dict.fromkeys([place.with_name("float32"), *places(run, "float32")]):
        try:
            open_graphs(run, beside, "onnxruntime")  # of this network and these policies
            arrays = read_arrays(beside / DECIDED)
            if _text(arrays["images"]) == digest_of(keys, labels):
                return [
                    PolicyRun(*(arrays[f"{_name(setting)} {part}"] for part in ("columns", "predicted", "macs")))
                    for setting in settings
                ]
        except (UserError, KeyError):
            continue
    return None


def _name(setting: Setting) -> str:
    policy, objective, dial = setting
    return f"{policy.name} {objective} {dial}"


def _letters(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _text(letters: np.ndarray) -> str:
    return letters.tobytes().decode()
