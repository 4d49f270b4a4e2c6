"""What a report says, in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selector.compiling.equality import RARE, TOLERANCE
from selector.scoring.tables import difference_text


def sentences(report: Mapping[str, Any], place: Path, was_there: bool, network: str) -> list[str]:
    """Where it is, whether it equals the eager network or what its precision costs, and how to serve it.

    Args:
        report: as :func:`selector.compiling.flow.compile_for` gives it.
        place: folder of the graphs.
        was_there: whether nothing was made.
        network: the run, as SERVING_NETWORK names it.
    """
    made = "is there already" if was_there else f"took {report['seconds']} seconds"
    said = [f"{place}: {report['graphs']} graphs in {report['precision']} for {report['runtime']}, which {made}."]
    if report.get("equality"):
        said += _equality(report["equality"])
    elif report["rows"]:
        default = next(row for row in report["rows"] if row["policy"] == "default")
        said.append(
            f"Policies were fitted on {report['label_images']} label images in {report['precision']}. The default has "
            f"{default['accuracy']:.1%} of the {report['test_images']} test images right, "
            f"{difference_text(default['versus_float32'])} points from float32 (95 % interval, paired)."
        )
    if report.get("milliseconds"):
        said.append(_speed(report["milliseconds"], report["precision"]))
    if report.get("live"):
        said.append(_live(report["live"]))
    precision = "" if report["precision"] == "float32" else f" SERVING_PRECISION={report['precision']}"
    return [*said, f"Serve it: SERVING_NETWORK={network}{precision} bentoml serve"]


def _equality(found: Mapping[str, Any]) -> list[str]:
    verdict = "equals" if found["holds"] else "DIFFERS FROM"
    return [
        f"It {verdict} the eager network: of {found['images']} answers (test images times policies at their settings) "
        f"{found['other_class']} have another class, {found['ties']} one of two tied classes; the largest difference of a "
        f"probability is {found['probability']:.1e} (allowed: {TOLERANCE:g}).",
        f"{found['other_configuration']} answers come from another configuration and {found['other_macs']} from the same at "
        "another charge, since a feature or probability lay so near a threshold that rounding decided (allowed: one in "
        f"{RARE} of each setting).",
    ]


def _speed(found: Mapping[str, Any], precision: str) -> str:
    """Of the default in a precision and in float32.

    >>> _speed({"images": 16, "float32": 11.02, "bfloat16": 16.81}, "bfloat16")
    'The default takes 16.81 ms an image in batches of 16 here, in float32 11.02: bfloat16 DOES NOT PAY on this machine.'
    """
    own, float32 = found[precision], found["float32"]
    pays = f"{float32 / own:.1f} times as fast" if own < float32 else f"{precision} DOES NOT PAY on this machine"
    return f"The default takes {own:.2f} ms an image in batches of {found['images']} here, in float32 {float32:.2f}: {pays}."


def _live(found: Mapping[str, Any]) -> str:
    """Of sessions, which run no more than one policy asks for, beside what was seen of every configuration."""
    return (
        f"Of {found['images']} answers of policies that decided live, {found['other_configuration']} come from another "
        f"configuration than by what was seen of all configurations before, {found['other_class'] + found['ties']} have "
        f"another class and {found['other_macs']} another charge."
    )
