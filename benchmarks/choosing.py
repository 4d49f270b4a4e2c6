"""What choosing costs: milliseconds of every policy of a run on compiled graphs, network and choice apart.

    python -m benchmarks.choosing                 # the shipped matched run; compiles it first where it is not
    python -m benchmarks.choosing wide --threads 2

The network's time is that of its graphs. Of all else (looks put together, statistics of pixels, trees, bookkeeping) the
choice is what goes beyond the static default's own bookkeeping. Policy and static default take turns; the quickest of each
counts, since other work only adds. The share is of the static default's time, which every policy could have spent instead.
The last lines say which policies miss the aim; those marked + run several configurations by design, and have none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import tyro
from tqdm import tqdm

from dynamic.command import run_command
from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.record import GraphRecord
from dynamic.compiled.runtimes import open_runtime
from dynamic.compiled.session import CompiledSession
from oracle.reporting.text import aligned
from oracle.runs import Run
from selector.compiling.comparing import settings_of
from selector.compiling.flow import compile_for
from selector.compiling.graphs import portfolio_of_policies
from selector.compiling.settings import CompileSettings
from selector.observation.answers import probabilities_of
from selector.observation.costs import Costs
from selector.observation.images import LiveImages
from selector.policies import load_policies
from selector.policies.base import Policy

AIMS = {1: 0.10, 32: 0.05}
"""Share of the static default's time that choosing may take at most, by images of a batch."""


@dataclass(frozen=True, kw_only=True)
class ChoosingSettings:
    """What to time."""

    run: Annotated[Path, tyro.conf.Positional] = Path("matched")
    """Folder or name of a run with policies."""
    threads: int = 1
    """Of the runtime; a worker of the service has one where it shares the cores with others."""
    turns: int = 40
    """Of policy and static default each."""


class TimedNetwork(CompiledNetwork):
    """Adds up what its graphs take."""

    seconds = 0.0

    def run(self, graph: GraphRecord, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        began = time.perf_counter()
        made = super().run(graph, inputs)
        self.seconds += time.perf_counter() - began
        return made


def times(
    policy: Policy, dial: float | None, network: TimedNetwork, images: np.ndarray, costs: Costs
) -> tuple[float, float]:
    """Seconds of one batch, from images to probabilities: of the graphs, and of all else."""
    portfolio = network.configurations
    network.seconds, began = 0.0, time.perf_counter()
    session = CompiledSession(network, images)
    live = LiveImages(session, images, portfolio, network.default, costs)
    probabilities_of(session.mixed([portfolio[column] for column in policy.decide(live, dial)]))
    whole = time.perf_counter() - began
    return network.seconds, whole - network.seconds


def main(settings: ChoosingSettings) -> None:
    """Time every policy for its objectives; print a table."""
    open_runtime("float32", threads=settings.threads)  # before anything else asks: the first one sizes the pool of all
    place, _, _ = compile_for(CompileSettings(run=settings.run, check=False))
    run = Run.open(CompileSettings(run=settings.run).folder)
    policies = load_policies(run)
    network = cast(TimedNetwork, TimedNetwork.open(place, threads=settings.threads))
    costs = Costs(run.network, portfolio_of_policies(policies), network.resolution)
    source = run.images()
    images = source.load(np.flatnonzero(source.splits == "test")[: 4 * max(AIMS)]).images.numpy()
    chosen = {(policy.name, dial): (policy, objective, dial) for policy, objective, dial in settings_of(policies)}
    static = chosen["default", None][0]
    rows, missed = [], {size: list[str]() for size in AIMS}
    column = network.configurations.index(network.default)
    for policy, objective, dial in tqdm(chosen.values(), unit="setting"):
        several = bool(policy.asks(column, costs.layers).ladders)
        name, what = policy.name + ("+" if several else ""), (objective or "").replace("_", " ")
        cells = [name, what]
        for size, aim in AIMS.items():
            taken = []
            for turn in range(settings.turns + 3):
                start = turn * size % (len(images) - size + 1)
                some = np.ascontiguousarray(images[start : start + size])
                beside = times(static, None, network, some, costs)
                taken.append((*times(policy, dial, network, some, costs), *beside, sum(beside)))
            graphs, around, _, bookkeeping, default = 1000 * np.min(taken[3:], axis=0) / size
            choice = around - bookkeeping
            cells += [f"{default:.3f}", f"{graphs:.3f}", f"{choice:.3f}", f"{choice / default:.1%}"]
            if choice > aim * default and not several:
                missed[size].append(f"{policy.name}{f' ({what})' if what else ''} {choice / default:.0%}")
        rows.append(cells)
    header = ["policy", "objective"]
    for size in AIMS:
        header += [f"static ms at {size}", "graphs", "choice", "share"]
    print(aligned(header, rows))
    for size, aim in AIMS.items():
        found = f"missed by {', '.join(missed[size])}" if missed[size] else "met by all"
        print(f"choosing at most {aim:.0%} of the static default's time, images a batch {size}: {found}")


if __name__ == "__main__":
    run_command(main, ChoosingSettings, __doc__ or "")
