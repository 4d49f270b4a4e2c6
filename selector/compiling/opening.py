"""Opens the graphs of a run, without PyTorch."""

from __future__ import annotations

from pathlib import Path

from dynamic.compiled.folder import CompiledNetwork
from dynamic.errors import UserError
from dynamic.integrity import read_record
from oracle.run_folder import RunFolder
from selector.policies import digest_of_policies

MADE_FOR = "made_for.json"
"""In a folder of graphs: the digest of the policies that they were made for."""


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
