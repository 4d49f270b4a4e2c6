"""What came out, for a person who wants to know whether choosing pays: one table, and sentences that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from selector.policies.objectives import OBJECTIVE_WORDS, OBJECTIVES, Objective
from selector.scoring.ranking import recommended
from selector.scoring.tables import difference_text

HEADER = ["on the test images", "accuracy", "95 % interval", "MMACs", "of the default's", "points from the default"]


def rows_of(result: Mapping[str, Any]) -> list[list[str]]:
    """The table: default, best static configuration, oracle, and what was chosen on the label split for each objective."""
    by_name = _by_name(result)
    default = by_name["default"]
    named = [("default", default), ("best single configuration", by_name["single_best"]), ("oracle", by_name["oracle"])]
    helping: dict[str, list[str]] = {}
    for objective in OBJECTIVES:
        row, choice = chosen(result, objective)
        if choice.helps:
            helping.setdefault(f"{row['policy']} {row['dial']}", []).append(objective)
            by_name[f"{row['policy']} {row['dial']}"] = row
    for setting, objectives in helping.items():
        words = ", ".join(objective.replace("_", " ") for objective in objectives)
        named.append((f"{by_name[setting]['policy']} for {words}", by_name[setting]))
    return [
        [
            name,
            f"{row['accuracy']:.1%}",
            "{:.1%} – {:.1%}".format(*row["accuracy_ci"]),
            f"{1000 * row['gmacs']:.1f}",
            f"{row['gmacs'] / default['gmacs']:.0%}",
            "" if row is default else difference_text(row["versus_default"]),
        ]
        for name, row in named
    ]


def chosen(result: Mapping[str, Any], objective: Objective) -> tuple[dict[str, Any], Any]:
    """See :func:`selector.scoring.ranking.recommended`."""
    learned = [row for row in result["policies"] if row["learned"]]
    return recommended(learned, objective, _by_name(result)["default"], result["run"])


def sentences_of(result: Mapping[str, Any]) -> list[str]:
    """What the network reaches, what the oracle would, and what the best policy brings: or that none does, and why.

    Args:
        result: of one run, as :func:`selector.scoring.benchmark.benchmark` has it.
    """
    by_name, run = _by_name(result), result["run"]
    default, oracle = by_name["default"], by_name["oracle"]
    found = [
        f"For these images, {run['model']} reaches {default['accuracy']:.1%} at {1000 * default['gmacs']:.1f} MMACs; the "
        f"oracle, which picks the best of {len(run['configurations'])} configurations for each image, would reach "
        f"{oracle['accuracy']:.1%} at {1000 * oracle['gmacs']:.1f}, part of it by luck with the label."
    ]
    if "before_distillation" in result:
        found.append(f"Before the distillation it reached {result['before_distillation']:.1%} on the same test images.")
    if about := result.get("about_default"):
        found.append(about)
    if oracle["accuracy"] <= default["accuracy"]:
        found.append("There is no accuracy to gain by choosing: the oracle is no better than the default.")
    said: dict[str, list[str]] = {}
    for objective in OBJECTIVES:
        said.setdefault(_said(result, objective), []).append(OBJECTIVE_WORDS[objective])
    found += [f"For {'; for '.join(words)}: {sentence}" for sentence, words in said.items()]
    served = chosen(result, "efficiency")[1]
    return [
        *found,
        f"The service runs {served.policy} on these images, unless SERVING_OBJECTIVE or SERVING_POLICY say otherwise.",
    ]


def _said(result: Mapping[str, Any], objective: Objective) -> str:
    row, choice = chosen(result, objective)
    if not choice.helps:
        return f"{choice.sentence}."
    default, versus = _by_name(result)["default"], row["versus_default"]
    share = 1 - row["gmacs"] / default["gmacs"]
    cost = (
        f"saves {share:.0%} of the multiply-accumulates" if share >= 0 else f"costs {-share:.0%} more multiply-accumulates"
    )
    kept = f"{row['policy']} {cost} ({1000 * row['gmacs']:.1f} MMACs) at {row['accuracy']:.1%}"
    said = f"{kept}, {difference_text(versus)} points from the default on the test images"
    said += f"; label images guaranteed {choice.guarantee}." if choice.guarantee else "."
    low, high = versus["interval"]
    images = result["run"]["test_images"]
    if low <= 0 <= high and versus["value"]:
        needed = ceil(images * ((high - low) / 2 / abs(versus["value"])) ** 2)
        said += f" Whether that is a gain or a loss, about {max(needed, images)} test images would tell."
    elif low <= 0 <= high:
        said += " No difference was found."
    elif high < 0:
        said += " It is worse than the label images promised: more of them would choose better."
    return said


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The same for programs, JSON-ready."""
    by_name = _by_name(result)
    objectives = {}
    for objective in OBJECTIVES:
        row, choice = chosen(result, objective)
        objectives[objective] = {
            "policy": choice.policy,
            "dial": row["dial"] if choice.helps else None,
            "accuracy": row["accuracy"],
            "gmacs": row["gmacs"],
            "versus_default": row["versus_default"]["value"],
            "versus_default_interval": row["versus_default"]["interval"],
            "guaranteed": row["expected"].get("guaranteed") if choice.helps else None,
            "labels_needed": choice.needed,
            "why": choice.sentence,
        }
    return {
        name: {key: by_name[name][key] for key in ("accuracy", "accuracy_ci", "gmacs")}
        for name in ("default", "single_best", "oracle")
    } | {
        "label_images": result["run"]["label_images"],
        "test_images": result["run"]["test_images"],
        "configurations": result["run"]["configurations"],
        "terms": result["run"].get("terms"),
        "objectives": objectives,
    }


def _by_name(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in result["policies"]}
