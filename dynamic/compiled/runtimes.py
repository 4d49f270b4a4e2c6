"""What runs a static graph on a CPU: ONNX Runtime, or OpenVINO where it is installed."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from dynamic.errors import UserError
from dynamic.resources import cpu_count, cpu_flags, cpu_has_bfloat16

RuntimeName = Literal["onnxruntime", "openvino"]
Precision = Literal["float32", "bfloat16", "int8"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)


class Graph(Protocol):
    """A graph that is ready to run."""

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs, in the order in which the graph has them."""


class Runtime(Protocol):
    """Opens graphs."""

    def load(self, path: Path, tensors: Mapping[str, np.ndarray] | None = None) -> Graph:
        """Make the graph of an ONNX file ready to run.

        Where ``tensors`` are given by name it was optimised before, for ONNX Runtime, and reads these instead of its own.
        """


def open_runtime(precision: Precision, name: str | None = None, threads: int | None = None) -> tuple[RuntimeName, Runtime]:
    """The runtime of that name, or the default one of a precision.

    Args:
        precision: of the graphs that it is to run.
        name: ``onnxruntime`` or ``openvino``; unless given, OpenVINO for bfloat16, else ONNX Runtime.
        threads: that one graph runs on; unless given, as many as there are cores. ONNX Runtime has one pool for all graphs
            of the process, of the size that the first one asked for.

    Raises:
        UserError: an unknown runtime, one that is not installed, or one that cannot run the precision on this CPU.
    """
    chosen = name or ("openvino" if precision == "bfloat16" else "onnxruntime")
    if chosen == "onnxruntime":
        if precision == "bfloat16":
            raise UserError("ONNX Runtime has no bfloat16 on CPUs: choose --runtime openvino, or another precision")
        return "onnxruntime", _OnnxRuntime(threads)
    if chosen == "openvino":
        if importlib.util.find_spec("openvino") is None:
            raise UserError("OpenVINO is not installed: pip install 'learned-selector[openvino]', or choose onnxruntime")
        if precision == "bfloat16":
            check_bfloat16()
        return "openvino", _OpenVino(precision, threads)
    raise UserError(f"no runtime is called {chosen!r}: choose from {', '.join(RUNTIMES)}")


def pool_threads() -> int | None:
    """Threads of ONNX Runtime's one pool in this process; None before anything asked for it."""
    return _OnnxRuntime.pool


def small_graph(model: bytes) -> Graph:
    """A graph in memory that is small beside a network, ready to run in ONNX Runtime.

    It runs on the pool of the networks. Where there is none yet, a pool of one thread is made: more would spin beside
    whatever runs the network, PyTorch or OpenVINO.
    """
    return _OnnxRuntime(threads=1).load(model)


def check_bfloat16() -> None:
    """Raise UserError where the CPU computes bfloat16 no faster than float32, or not at all."""
    if not cpu_has_bfloat16():
        raise UserError("this CPU has no bfloat16 (neither avx512_bf16 nor amx_bf16): choose float32 or int8")


class _OnnxRuntime:
    """One pool of threads for all graphs, since one each spin after a call and starve the next; and one memory arena."""

    _lock = threading.Lock()
    pool: int | None = None

    def __init__(self, threads: int | None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"ONNX Runtime cannot be imported ({error}): pip install onnxruntime") from error

        self._library: Any = onnxruntime
        with self._lock:
            if _OnnxRuntime.pool is None:
                _OnnxRuntime.pool = threads or cpu_count()
                onnxruntime.set_global_thread_pool_sizes(_OnnxRuntime.pool, 1)
                kind, use = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
                onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", kind, 0, use), None)

    def load(self, model: Path | bytes, tensors: Mapping[str, np.ndarray] | None = None) -> Graph:
        options, values = self.options(), []
        if tensors is not None:
            options.graph_optimization_level = self._library.GraphOptimizationLevel.ORT_DISABLE_ALL
            for name, tensor in tensors.items():
                values.append(self._library.OrtValue.ortvalue_from_numpy(tensor))
                options.add_initializer(name, values[-1])
        session = self._library.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return _OnnxGraph(session, values)

    def options(self) -> Any:
        """Of a session that uses the pool and the arena of all."""
        options = self._library.SessionOptions()
        options.use_per_session_threads = False
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.log_severity_level = 3
        return options


class _OnnxGraph:
    """A session, and the tensors that it reads and does not own."""

    def __init__(self, session: Any, tensors: Sequence[Any]) -> None:
        self._session, self._tensors = session, tensors
        self._outputs = [output.name for output in session.get_outputs()]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        made: list[np.ndarray] = self._session.run(self._outputs, inputs)
        return made


def write_optimised(graph: Path, optimised: Path) -> None:
    """Write a graph as ONNX Runtime optimises it for this CPU."""
    runtime = _OnnxRuntime(None)
    options = runtime.options()
    options.optimized_model_filepath = str(optimised)
    runtime._library.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def layout_of_onnxruntime() -> str | None:
    """On what an optimised graph depends: the runtime's version and the CPU's widest vectors; None where nothing tells."""
    width = next((flag for flag in ("avx512f", "avx2", "avx") if flag in cpu_flags()), None)
    return None if width is None else f"onnxruntime {version('onnxruntime')} {width}"


class _OpenVino:
    def __init__(self, precision: Precision, threads: int | None) -> None:
        import openvino

        self._core = openvino.Core()
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "INFERENCE_NUM_THREADS": threads or cpu_count(),
        }

    def load(self, path: Path, tensors: Mapping[str, np.ndarray] | None = None) -> Graph:
        compiled = self._core.compile_model(self._core.read_model(str(path)), "CPU", self._settings)
        return _OpenVinoGraph(compiled)


class _OpenVinoGraph:
    """A compiled model; its requests belong to one thread at a time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._requests = threading.local()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        made = request.infer(dict(inputs))
        outputs: Sequence[Any] = self._compiled.outputs
        return [np.array(made[output]) for output in outputs]
