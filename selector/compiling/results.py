"""What policies of a precision reach on the test split, in the shape in which ``selector.benchmark`` leaves float32's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from dynamic.compiled.folder import CompiledNetwork
from dynamic.integrity import write_record
from oracle.runs import Run
from selector.compiling.opening import RESULTS
from selector.observation.observations import Observations
from selector.policies.base import Policy
from selector.policies.running import PolicyRuns
from selector.scoring.curves import dial_curves, static_points
from selector.scoring.opening import facts_of
from selector.scoring.ranking import rank


def write_results(
    run: Run,
    network: CompiledNetwork,
    policies: Sequence[Policy],
    digest: str,
    label: Observations,
    test: Observations,
) -> None:
    """Rank policies by their answers in a precision, and leave that beside its graphs for the service.

    Args:
        run: whose policies were fitted anew.
        network: its graphs in the precision.
        policies: fitted on the label images' answers in it.
        digest: of their folder.
        label, test: what was seen of the images in it.
    """
    runs = PolicyRuns(test)
    results = {
        "run": facts_of(run, policies, label, test) | {"precision": network.precision, "runtime": network.runtime},
        "policies": rank(policies, label, runs).rows,
        "static": static_points(test),
        "curves": dial_curves(policies, runs),
        "network": asdict(run.digests),
        "policies_digest": digest,
    }
    write_record(network.folder / RESULTS, results)
