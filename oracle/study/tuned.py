"""Sets and outcomes by how the network was treated: pre-trained, recalibrated, fine-tuned, distilled."""

from __future__ import annotations

from oracle.study.outcomes import SpaceOutcomes
from oracle.study.part import Study
from oracle.study.sets import EFFICIENCY


def tuned_sets(study: Study, space: str, *methods: str) -> dict[str, str]:
    """Names of the sets of one space by treatment; those that are there."""
    sets = {
        "pre-trained": "main",
        "recalibrated": "recalibrated",
        "fine-tuned": f"rof-{space}",
        "fine-tuned, recalibrated": f"rof-recalibrated-{space}",
    }
    return study.there({method: sets[method] for method in methods})


def efficiency_outcomes(study: Study) -> dict[str, SpaceOutcomes]:
    """The outcomes in the efficiency space by treatment; those that are there."""
    return {method: study.of(name, study.spaces[name][0].name) for method, name in study.there(EFFICIENCY).items()}
