"""Opens the graphs of a run, without PyTorch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dynamic.compiled.folder import CompiledNetwork
from dynamic.errors import UserError
from dynamic.integrity import read_record
from oracle.run_folder import RunFolder
from oracle.run_record import OWN, Digests
from selector.policies import digest_of_policies, load_policies
from selector.policies.base import Policy

MADE_FOR = "made_for.json"
"""In a folder of graphs: the digest of the policies that they were made for, and how many label images these had."""

POLICIES = "policies"
"""In a folder of graphs of another precision than float32: the policies that were fitted on its answers."""

RESULTS = "results.json"
"""In such a folder: what these policies reach on the test split."""


def open_graphs(run: RunFolder, folder: Path, runtime: str | None = None, threads: int | None = None) -> CompiledNetwork:
    """Graphs of a run that were made for its policies as they are now; needs no PyTorch.

    Raises:
        UserError: nothing compiled there, something damaged, or graphs of another network, for images of another size or for
            other policies.
    """
    network = _of_images(run, CompiledNetwork.open(folder, runtime, threads, asdict(run.digests)))
    made_for = read_record(folder / MADE_FOR)
    if made_for.get("policies") != digest_of_policies(run.policies):
        raise UserError(f"{folder} was compiled for other policies: python -m selector.compile {run.folder}")
    return network


def open_static(run: RunFolder, folder: Path, runtime: str | None = None, threads: int | None = None) -> CompiledNetwork:
    """The default of a run as one graph, with its own batch norms folded; raises UserError as :func:`open_graphs` does."""
    digests = asdict(Digests(weights=run.digests.weights, statistics=OWN))
    return _of_images(run, CompiledNetwork.open(folder, runtime, threads, digests))


def _of_images(run: RunFolder, network: CompiledNetwork) -> CompiledNetwork:
    """Raises UserError where it is for images of another size than the run's."""
    if network.resolution != run.record.resolution:
        raise UserError(
            f"{network.folder} was compiled for images of {network.resolution} pixels, not {run.record.resolution}: "
            "compile the run again"
        )
    return network


def policies_folder(run: RunFolder, network: CompiledNetwork) -> Path:
    """Where the policies are that decide on a compiled network: the run's own in float32, else beside the graphs.

    Raises:
        UserError: another precision than float32, and compiling ended before policies were fitted on its answers.
    """
    if network.precision == "float32":
        return run.policies
    own = network.folder / POLICIES
    if not own.is_dir():
        raise UserError(
            f"{network.folder} has no policies in {network.precision}: "
            f"python -m selector.compile {run.folder} --precision {network.precision}"
        )
    return own


def open_policies(run: RunFolder, network: CompiledNetwork) -> list[Policy]:
    """The policies that decide on a compiled network; needs no PyTorch.

    Raises:
        UserError: as :func:`policies_folder` and :func:`load_policies` do.
    """
    folder = policies_folder(run, network)
    policies = load_policies(run, network.configurations, folder)
    if folder == run.policies:  # earlier versions did not count the label images, and their list takes pandas to read
        labels = read_record(network.folder / MADE_FOR)["labels"]
        for policy in policies:
            policy.labels_ = labels
    return policies


def read_results_beside(run: RunFolder, network: CompiledNetwork) -> dict[str, Any]:
    """What the policies of another precision than float32 reach on the test split, as ``selector.benchmark`` writes it.

    Raises:
        UserError: none are there, or they are damaged, or of other policies or another runtime.
    """
    path = network.folder / RESULTS
    command = f"run python -m selector.compile {run.folder} --precision {network.precision} --runtime {network.runtime}"
    if not path.is_file():
        raise UserError(
            f"{network.folder} was compiled by an earlier version, without results in {network.precision}: {command}"
        )
    results = read_record(path)
    if results.get("policies_digest") != digest_of_policies(policies_folder(run, network)):
        raise UserError(f"{path} is of other policies than those beside it: {command}")
    measured = results["run"]["runtime"]
    if measured != network.runtime:
        raise UserError(f"{path} was measured with {measured}, not {network.runtime}: {command}")
    return results
