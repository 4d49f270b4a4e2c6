"""Times policies on a run's compiled graphs, where the service runs them."""

from __future__ import annotations

import sys
from contextlib import suppress

import numpy as np

from dynamic.compiled.runtimes import open_runtime, pool_threads
from dynamic.compiled.session import CompiledSession
from dynamic.errors import UserError
from selector.compiling.flow import compile_for
from selector.compiling.opening import open_graphs
from selector.compiling.settings import CompileSettings
from selector.observation.images import LiveImages
from selector.policies.base import Policy
from selector.policies.running import run_policy
from selector.scoring.opening import OpenedRun, images_to_time, stopwatch_for
from selector.scoring.timing import Stopwatch

_THREADS = 1
"""Of a worker of the service where it shares the cores with others, and so of what is timed."""


def size_pool() -> None:
    """Give ONNX Runtime the threads of a worker, before policies ask for others: the first one in a process decides."""
    with suppress(UserError):  # without ONNX Runtime milliseconds are PyTorch's
        open_runtime("float32", "onnxruntime", _THREADS)


def stopwatch_on_graphs(opened: OpenedRun) -> Stopwatch:
    """On float32 graphs, which are made where the run has none; in PyTorch where it cannot have any, which is said."""
    if opened.device != "cpu":
        return stopwatch_for(opened)
    try:
        place, _, _ = compile_for(CompileSettings(run=opened.run.folder, check=False))
        network = open_graphs(opened.run, place)
    except UserError as error:
        print(f"milliseconds are taken in PyTorch: {error}", file=sys.stderr)
        return stopwatch_for(opened)
    portfolio, costs = opened.test.portfolio, opened.test.costs

    def run(policy: Policy, dial: float | None, images: np.ndarray) -> object:
        session = CompiledSession(network, images)
        return run_policy(policy, LiveImages(session, images, portfolio, network.default, costs), dial)

    whole = network.makers["logits", network.path(network.default)[-1], ""].alone  # with nothing of ours around it

    def run_static(images: np.ndarray) -> np.ndarray:
        return network.run(whole, {"images": images})[0].argmax(axis=1)

    threads = pool_threads()
    engine = f"ONNX Runtime on {threads} thread{'' if threads == 1 else 's'}"
    return Stopwatch(engine=engine, run=run, run_static=run_static, images=images_to_time(opened).numpy())
