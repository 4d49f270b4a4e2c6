"""What came out of a ranking, in sentences that follow from the paired statistics of its rows and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from oracle.evaluation.paired import LEVEL
from selector.policies.objectives import OBJECTIVE_WORDS
from selector.scoring.promises import promised_sentences
from selector.scoring.ranking import recommended
from selector.scoring.tables import difference_text, gap_text, p_text


def sentences(result: Mapping[str, Any]) -> list[str]:
    """Say what came out; for each objective about the policy that the label split recommends.

    Args:
        result: of one run: ``run`` (``test_images``, ``configurations``), ``policies`` as
            :func:`selector.scoring.ranking.rank` makes them, and ``control``.
    """
    rows = result["policies"]
    by_name = {row["name"]: row for row in rows}
    default, single, oracle = by_name["default"], by_name["single_best"], by_name["oracle"]
    found = [
        f"On {result['run']['test_images']} test images the default reaches {default['accuracy']:.1%} at "
        f"{1000 * default['gmacs']:.1f} MMACs, the single best (SBS) {single['accuracy']:.1%}, the oracle (VBS) over "
        f"{len(result['run']['configurations'])} configurations {oracle['accuracy']:.1%}."
    ]
    learned = [row for row in rows if row["learned"]]
    for objective, words in OBJECTIVE_WORDS.items():
        row, choice = recommended(learned, objective, default, result["run"])
        if choice.helps:
            found.append(_objective(row, words, default))
        elif choice.nearest is not None:
            found.append(f"For {words}: {choice.sentence}.")
    beside = [_beside(row, default) for row in result.get("networks", [])]
    kept = promised_sentences(result.get("promises", {}), result["run"].get("terms"))
    return [*found, *beside, *kept, *_against_single_best(learned), _control(result["control"])]


def verdict(versus: Mapping[str, Any]) -> str:
    """``better``, ``worse`` or ``not distinguishable``, by McNemar's exact test adjusted for the number of learned rows.

    Args:
        versus: ``won`` and ``lost`` images, and ``p_holm``.

    >>> verdict({"won": 30, "lost": 10, "p_holm": 0.02}), verdict({"won": 30, "lost": 10, "p_holm": 0.06})
    ('better', 'not distinguishable')
    """
    if versus["p_holm"] >= LEVEL:
        return "not distinguishable"
    return "better" if versus["won"] > versus["lost"] else "worse"


def _objective(row: Mapping[str, Any], words: str, default: Mapping[str, Any]) -> str:
    versus = row["versus_default"]
    found = verdict(versus)
    compared = f"{found} {'from' if found == 'not distinguishable' else 'than'} the default"
    return (
        f"For {words}: {row['policy']}, chosen on the label split, reaches {row['accuracy']:.1%} at "
        f"{1000 * row['gmacs']:.1f} MMACs ({row['gmacs'] / default['gmacs']:.0%} of the default's): {compared} "
        f"({difference_text(versus)} points, adjusted p {p_text(versus['p_holm'])}). {_gap(row)} {_mixture(row)}"
    )


def _beside(row: Mapping[str, Any], default: Mapping[str, Any]) -> str:
    """What another network reaches, what policies do for its cost, and at what cost they do as well."""
    said = [
        f"{row['name']}, another network run statically, reaches {row['accuracy']:.1%} at {1000 * row['gmacs']:.1f} MMACs "
        f"({row['gmacs'] / default['gmacs']:.0%} of the default's; {difference_text(row['versus_default'])} points from it)"
    ]
    for kind, words in (("for_its_cost", "for no more"), ("for_its_accuracy", "for as much")):
        chosen = row[kind]
        if chosen is None:
            said.append(f"{words} no policy has a setting")
            continue
        found = verdict(chosen["versus"])
        said.append(
            f"{words} {chosen['policy']}, chosen on the label split, reaches {chosen['accuracy']:.1%} at "
            f"{1000 * chosen['gmacs']:.1f}, {found} {'from' if found == 'not distinguishable' else 'than'} it "
            f"({difference_text(chosen['versus'])}, adjusted p {p_text(chosen['versus']['p_holm'])})"
        )
    return "; ".join(said) + "."


def _gap(row: Mapping[str, Any]) -> str:
    if row["closed_gap"] is None:
        return "There is no gap to close: the oracle is no better than the single best."
    return f"It closes {gap_text(row)} of the gap."


def _mixture(row: Mapping[str, Any]) -> str:
    """Whether the interval of the difference from the best mixture excludes zero."""
    low, high = row["above_hull"]["interval"]
    place = "lies above" if low > 0 else "lies below" if high < 0 else "is not distinguishable from"
    return (
        f"It {place} the best randomised mixture of two static points of the same cost "
        f"({difference_text(row['above_hull'])} points)."
    )


def _against_single_best(learned: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which learned rows are better than the single best, which worse."""
    if not learned:
        return ["No learned policy was ranked."]
    verdicts = {row["name"]: verdict(row["versus_single_best"]) for row in learned}
    better, worse = ([name for name, found in verdicts.items() if found == kind] for kind in ("better", "worse"))
    test = f"McNemar's exact test, p adjusted by Holm for {len(learned)} rows, below {LEVEL}"
    return [
        f"Of {len(learned)} rows of learned policies, better than the single best ({test}): {', '.join(better) or 'none'}.",
        f"Worse than the single best, by the same test: {', '.join(worse) or 'none'}.",
    ]


def _control(control: Mapping[str, Any]) -> str:
    what = "Control: fitted on shuffled labels, a correctness policy"
    if control["closed_gap"] is None:
        return f"{what} reaches {control['accuracy']:.1%}; there is no gap to close."
    said = f"{what} closes {gap_text(control)} of the gap"
    interval = control["closed_gap_ci"]
    leaking = interval is not None and interval[0] > 0
    return f"{said}, where it must close nothing: labels leak." if leaking else f"{said}."
