"""How much faster the prefix-shared engine is than a loop over configurations, in one run on one machine.

    python -m benchmarks.oracle_speed                                        # slim ResNet-50 at 96 px, a few minutes
    python -m benchmarks.oracle_speed --model resnet50 --images 2 --space benchmarks/dilation81.json
    python -m benchmarks.oracle_speed --model resnet50 --device cuda --dtype bfloat16 --images 64

Three ways to the same outcomes, timed in turn, ``--repeats`` times:

* tuned loop: the original module, its batch norms folded and in channels last, as one would deploy it, with ``conv.stride``
  and friends set by hand;
* engine: the walk of ``dynamic/walk.py``;
* plain loop: the tuned one without the tuning, as one would write it first.

"x tuned" is what the engine gains: the median of the repeats' ratios, and the lowest and highest. "MAC ratio" is what
sharing prefixes saves in theory; "share" is how much of it the engine gains over the tuned loop.
"""

from __future__ import annotations

import copy
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

import dynamic
from dynamic.command import run_command
from dynamic.models import SLIM
from oracle.evaluation.evaluate import WalkSize, outcomes_of
from oracle.settings import DTYPES
from tests.plain_loop import PlainLoop

VALIDATION_IMAGES = 50_000


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """What to time."""

    model: str = "resnet50-slim"
    """One of the paper's four networks, full size or -slim, with random weights."""
    space: str = "dilation,size,efficiency,stride"
    """Comma-separated spaces."""
    images: int = 32
    """Images that run as one batch."""
    repeats: int = 3
    """How often each way is timed."""
    resolution: int | None = None
    """Side in pixels; 96 for slim networks, 224 for full-size ones unless given."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Any torch device."""
    dtype: str = "float32"
    """float32 or bfloat16."""
    rows: int | None = None
    """Most rows of joined branches; chosen as oracle.run does unless given."""
    memory_of: Literal["plain", "tuned", "engine"] | None = None
    """Only run this way through --space once and print the MiB it held."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """Measured multiply-accumulates a second of square matrix products, the best of several sizes and tries.

    Convolutions may exceed it: they run in another library than matrix products, which on some CPUs is the better one.
    """
    best = 0.0
    for side in (4096, 8192) if device.startswith("cuda") else (512, 1024, 2048, 4096):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        for _ in range(5):
            best = max(best, side**3 / timed(partial(torch.matmul, a, b), device))
    return best


def timed(action: Callable[[], Any], device: str) -> float:
    """Seconds of wall clock, the device's queue drained."""
    synchronise(device)
    started = time.perf_counter()
    action()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def folded(original: nn.Module) -> nn.Module:
    """A copy with batch norms folded, by torch's own tool on the traced graph."""
    traced = torch.fx.symbolic_trace(copy.deepcopy(original))
    for node in list(traced.graph.nodes):
        norm = traced.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d) or node.args[0].op != "call_module" or len(node.args[0].users) > 1:
            continue
        source = node.args[0]
        conv = traced.get_submodule(source.target)
        if isinstance(conv, nn.Conv2d):
            parent, _, name = source.target.rpartition(".")
            setattr(traced.get_submodule(parent), name, fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
    traced.recompile()
    return traced


def peak_memory(action: Callable[[], Any], device: str) -> int:
    """Bytes that ``action`` held at most beyond what was held before."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        return torch.cuda.max_memory_allocated() - before
    process, done, seen = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.01):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    action()
    done.set()
    watcher.join()
    return max(seen) - before


@torch.inference_mode()
def loop_outcomes(
    loop: PlainLoop, configurations: list[dynamic.Configuration], images: Tensor, labels: Tensor
) -> np.ndarray:
    """Probabilities of the true class (images, configurations), one configuration after the other."""
    columns = []
    for configuration in configurations:
        probabilities = loop.set(configuration)(images).float().softmax(1)
        columns.append(probabilities.gather(1, labels[:, None])[:, 0])
    return torch.stack(columns, 1).cpu().numpy()


@dataclass(frozen=True)
class Contest:
    """One network, its images and the three ways to their outcomes."""

    settings: BenchmarkSettings
    network: dynamic.LoadedNetwork
    resolution: int
    runners: dict[str, Callable[[list[dynamic.Configuration], int], object]]

    @classmethod
    def prepare(cls, settings: BenchmarkSettings) -> Contest:
        device, dtype = settings.device, DTYPES[settings.dtype]
        torch.manual_seed(0)
        network = dynamic.load(settings.model, weights=None)
        resolution = settings.resolution or (96 if settings.model in SLIM else 224)
        images = torch.randn(settings.images, 3, resolution, resolution).to(device, dtype)
        labels = torch.randint(0, network.info.classes, (settings.images,)).to(device)
        plain = PlainLoop(copy.deepcopy(network.original).to(device, dtype), settings.model)
        tuned = PlainLoop(folded(network.original).to(device, dtype).to(memory_format=torch.channels_last), settings.model)
        fast = network.for_inference(device, dtype)
        fast_images = images.to(memory_format=torch.channels_last)
        runners: dict[str, Callable[[list[dynamic.Configuration], int], object]] = {
            "plain": lambda configurations, rows: loop_outcomes(plain, configurations, images, labels),
            "tuned": lambda configurations, rows: loop_outcomes(tuned, configurations, fast_images, labels),
            "engine": lambda configurations, rows: outcomes_of(fast, fast_images, labels, configurations, rows),
        }
        return cls(settings, network, resolution, runners)

    def actions(self, space: dynamic.Space) -> dict[str, Callable[[], object]]:
        """The three ways through one space, ready to be called."""
        fitting = WalkSize.fitting(
            self.network,
            space,
            self.resolution,
            self.settings.images,
            self.settings.device,
            None,
            DTYPES[self.settings.dtype],
        )
        rows = self.settings.rows or fitting.rows
        return {way: partial(runner, list(space), rows) for way, runner in self.runners.items()}


def memory_in_a_fresh_process(settings: BenchmarkSettings, space: str, way: str) -> float:
    """MiB that one way holds at most, measured where no earlier one has left its memory with the allocator."""
    options = {**asdict(settings), "space": space, "memory_of": way, "json": False}
    arguments = [
        part
        for name, value in options.items()
        if value not in (None, False)
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    command = [sys.executable, "-m", "benchmarks.oracle_speed", *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def benchmark(settings: BenchmarkSettings) -> dict[str, Any]:
    """Time all spaces and return the numbers of the table."""
    contest = Contest.prepare(settings)
    network, resolution = contest.network, contest.resolution
    peak = matmul_peak(settings.device, DTYPES[settings.dtype])
    results: dict[str, Any] = {
        "model": settings.model,
        "resolution": resolution,
        "images": settings.images,
        "device": torch.cuda.get_device_name() if settings.device.startswith("cuda") else "cpu",
        "dtype": settings.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "matmul_gmacs_per_s": peak / 1e9,
        "spaces": {},
    }
    for name in settings.space.split(","):
        space = dynamic.space(name, network)
        seconds: dict[str, list[float]] = {way: [] for way in contest.runners}
        for _ in range(settings.repeats):
            for way, action in contest.actions(space).items():
                seconds[way].append(timed(action, settings.device))
        macs = int(network.costs.of_space(space, resolution).sum())
        shared = network.costs.shared(space, resolution)
        middle = {way: statistics.median(times) for way, times in seconds.items()}
        ratios = [tuned / engine for tuned, engine in zip(seconds["tuned"], seconds["engine"], strict=True)]
        ratio = statistics.median(ratios)
        results["spaces"][space.name] = {
            "configurations": len(space),
            "seconds": {way: sorted(times) for way, times in seconds.items()},
            "mac_ratio": macs / shared,
            "ratio_to_tuned": ratio,
            "ratio_to_tuned_range": [min(ratios), max(ratios)],
            "share_of_mac_ratio": ratio / (macs / shared),
            "ratio_to_plain": middle["plain"] / middle["engine"],
            "share_of_matmul_peak": shared * settings.images / middle["engine"] / peak,
            "images_per_s": settings.images / middle["engine"],
            "hours_for_50000_images": VALIDATION_IMAGES * middle["engine"] / settings.images / 3600,
            "peak_memory_mib": {way: memory_in_a_fresh_process(settings, name, way) for way in ("tuned", "engine")},
        }
        print(line(space.name, results["spaces"][space.name]), flush=True)
    return results


def spread(times: list[float]) -> float:
    """Half the range."""
    return (max(times) - min(times)) / 2


HEADER = (
    f"{'space':<12}{'configs':>8}{'x tuned':>19}{'MAC ratio':>11}{'share':>7}{'engine s':>16}{'tuned s':>16}{'plain s':>16}"
    f"{'x plain':>9}{'of peak':>9}{'images/s':>10}{'h/50,000':>10}{'MiB tuned':>11}{'engine':>8}"
)


def line(name: str, result: dict[str, Any]) -> str:
    """One row of the table; times are median ± half the range, the ratio is median [lowest, highest]."""
    times = [
        f"{statistics.median(result['seconds'][way]):.2f} ± {spread(result['seconds'][way]):.2f}"
        for way in ("engine", "tuned", "plain")
    ]
    low, high = result["ratio_to_tuned_range"]
    ratio = f"{result['ratio_to_tuned']:.2f} [{low:.2f}, {high:.2f}]"
    return (
        f"{name:<12}{result['configurations']:>8}{ratio:>19}{result['mac_ratio']:>11.2f}{result['share_of_mac_ratio']:>7.0%}"
        f"{times[0]:>16}{times[1]:>16}{times[2]:>16}{result['ratio_to_plain']:>9.2f}{result['share_of_matmul_peak']:>9.0%}"
        f"{result['images_per_s']:>10.2f}{result['hours_for_50000_images']:>10.1f}"
        f"{result['peak_memory_mib']['tuned']:>11.0f}{result['peak_memory_mib']['engine']:>8.0f}"
    )


def main(settings: BenchmarkSettings) -> None:
    if settings.memory_of:
        contest = Contest.prepare(settings)
        action = contest.actions(dynamic.space(settings.space, contest.network))[settings.memory_of]
        print(peak_memory(action, settings.device) / 2**20)
        return
    print(f"{settings.model}, {settings.images} images a batch, {settings.dtype} on {settings.device}\n{HEADER}")
    results = benchmark(settings)
    print(f"matrix-multiply peak measured: {results['matmul_gmacs_per_s']:.0f} GMACs/s on {results['threads']} threads")
    if settings.json:
        print(json.dumps(results))


if __name__ == "__main__":
    run_command(main, BenchmarkSettings, __doc__ or "")
