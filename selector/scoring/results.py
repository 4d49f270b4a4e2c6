"""Reads what ``python -m selector.benchmark`` left in a run."""

from __future__ import annotations

from typing import Any

from dynamic.errors import UserError
from dynamic.integrity import read_record
from oracle.run_folder import RunFolder
from oracle.run_record import Digests
from selector.policies import digest_of_policies


def read_results(run: RunFolder) -> dict[str, Any]:
    """What :func:`selector.scoring.benchmark.benchmark` left in a run.

    Raises:
        UserError: it was not benchmarked, or since then its policies were fitted again or images added; or the results are
            damaged, or of another network.
    """
    command = f"run python -m selector.benchmark {run.folder}, where the run can be written to"
    if not run.results.exists():
        raise UserError(f"the run {run.name} was not benchmarked: {command}")
    results = read_record(run.results)
    run.digests.require(Digests.of(results.get("network"), run.results), run.results, command)
    if results.get("policies_digest") != digest_of_policies(run.policies):
        raise UserError(f"the policies of {run.name} were fitted again since it was benchmarked: {command}")
    if results.get("images", run.record.images["images"]) != run.record.images["images"]:
        raise UserError(f"{run.name} has more images than when it was benchmarked: {command}")
    return results
