"""The numbers of Inkawhich et al. (WACV 2022) that ours are shown beside: ImageNet's validation images, in percent."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from dynamic.attributes.registry import attributes

CITATION = "Inkawhich et al., The Untapped Potential of Off-the-Shelf Convolutional Neural Networks, WACV 2022"

NUMBERS: dict[str, Any] = json.loads(files("oracle.study").joinpath("paper.json").read_text())

BEST_CASES = (93.7, 95.8)
"""Best cases of ResNet-50: of stride alone, and the highest of Table 3."""

EFFICIENCY = {"same_as_default": "> 10", "same_as_best": "2.75"}
"""How many times fewer MACs the cheapest agreeing configurations take (section 4.6)."""

BEST_AFTER_ROF = "94.0 % at 0.3 GMACs"
"""Section 4.6."""

AGREEMENT_AFTER_ROF = {"dilation": 73.0}
"""Images that get one class from every configuration (section 4.2)."""

INFERRED = ("stridexdilation", "dilationxkernel_size")
"""Rows of Table 3 whose attributes the table's order says: their check marks are not in our copy."""

_NETWORKS = {
    "resnet50": "ResNet-50",
    "resnext50_32x4d": "ResNeXt-50",
    "mobilenet_v2": "MobileNetV2",
    "densenet121": "DenseNet-121",
}


def is_resnet50(model: str) -> bool:
    """Whether a network, slim or full, is the one that most of the paper's numbers are of."""
    return model.removesuffix("-slim") == "resnet50"


def pretrained(model: str, space: str) -> dict[str, float]:
    """Table 1: static, worst, median and best of a network (slim or full) in a space; empty where the paper has none.

    >>> pretrained("densenet121-slim", "dilation")
    {'static': 74.5, 'worst': 18.9, 'median': 55.8, 'best': 87.5}
    """
    row = NUMBERS["table1"].get(_NETWORKS.get(model.removesuffix("-slim"), ""), {})
    return {"static": row["static"]} | _cases(row[space]) if isinstance(row.get(space), dict) else {}


def fine_tuned(model: str, space: str) -> dict[str, float]:
    """Table 2: worst, median and best of ResNet-50 after random option fine-tuning."""
    row = NUMBERS["table2_resnet50_after_rof"].get(space) if is_resnet50(model) else None
    return _cases(row) if row else {}


def fine_tuning_gain(model: str, space: str) -> dict[str, float]:
    """Table 2 minus Table 1, in points."""
    before, after = pretrained(model, space), fine_tuned(model, space)
    return {case: round(after[case] - before[case], 1) for case in after}


def combined(model: str, names: str) -> dict[str, float]:
    """Table 3: worst, median and best of attributes joined by ``x``, such as ``stridexkernel_size``, of ResNet-50."""
    asked = words(names)
    rows = NUMBERS["table3_resnet50"]
    inferred = {("stride", "dilation"): rows[3], ("dilation", "size"): rows[5]}
    known = {tuple(row["attributes"]): row for row in rows if isinstance(row["attributes"], list)}
    row = (known | inferred).get(tuple(asked)) if is_resnet50(model) else None
    return _cases(row) if row else {}


def words(combination: str) -> list[str]:
    """The words in tables of attributes joined by ``x``.

    >>> words("stridexkernel_size")
    ['stride', 'size']
    """
    known = attributes()
    return [known[name].word if name in known else name for name in combination.split("x")]


def slashed(values: dict[str, float], *cases: str) -> str:
    """Some cases for a table's cell; a dash where the paper has no counterpart.

    >>> slashed({"worst": 0.1, "best": 93.7}, "worst", "best")
    '0.1 / 93.7'
    """
    return " / ".join(f"{values[case]:.1f}" for case in cases) if values else "—"


def _cases(row: dict[str, Any]) -> dict[str, float]:
    return {"worst": float(row["W"]), "median": float(row["M"]), "best": float(row["B"])}
