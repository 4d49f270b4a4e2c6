"""Opens the graphs of a run, without PyTorch."""

from __future__ import annotations

from pathlib import Path

from dynamic.compiled.folder import CompiledNetwork
from dynamic.errors import UserError
from dynamic.integrity import read_record
from oracle.run_folder import RunFolder
from selector.policies import digest_of_policies, load_policies
from selector.policies.base import Policy

MADE_FOR = "made_for.json"
"""In a folder of graphs: the digest of the policies that they were made for, and how many label images these had."""

POLICIES = "policies"
"""In a folder of graphs of another precision than float32: the policies that were fitted on its answers."""


def open_graphs(run: RunFolder, folder: Path, runtime: str | None = None, threads: int | None = None) -> CompiledNetwork:
    """Graphs of a run that were made for its policies as they are now; needs no PyTorch.

    Raises:
        UserError: nothing compiled there, something damaged, or graphs of another network or for other policies.
    """
    digests = {"weights": run.digests.weights, "statistics": run.digests.statistics}
    network = CompiledNetwork.open(folder, runtime, threads, digests)
    made_for = read_record(folder / MADE_FOR)
    if made_for.get("policies") != digest_of_policies(run.policies):
        raise UserError(f"{folder} was compiled for other policies: python -m selector.compile {run.folder}")
    return network


def policies_folder(run: RunFolder, folder: Path) -> Path:
    """Where the policies are that decide on the graphs in ``folder``: beside them, or the run's own."""
    own = folder / POLICIES
    return own if own.is_dir() else run.policies


def open_policies(run: RunFolder, network: CompiledNetwork) -> list[Policy]:
    """The policies that decide on a compiled network; needs no PyTorch. Raises UserError as :func:`load_policies` does."""
    folder = policies_folder(run, network.folder)
    policies = load_policies(run, network.configurations, folder)
    if folder == run.policies:  # earlier versions did not count the label images, and their list takes pandas to read
        labels = read_record(network.folder / MADE_FOR)["labels"]
        for policy in policies:
            policy.labels_ = labels
    return policies
