"""The settings of the service: environment variables.

SERVING_NETWORK=runs/mine SERVING_WORKERS=2 bentoml serve
python -m serving.settings                    # lists them all
"""

from __future__ import annotations

import difflib
import os
import textwrap
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dynamic.errors import UserError
from dynamic.resources import cpu_count
from selector.policies.objectives import Objective
from serving.operation.state_folder import in_state_folder

PREFIX = "SERVING_"

_CORES = cpu_count()


def _default_device() -> str:
    """A GPU where PyTorch finds one; PyTorch is asked only where there is a driver, since that takes seconds."""
    if not any(Path(driver).exists() for driver in ("/dev/nvidiactl", "/dev/kfd")):
        return "cpu"
    try:
        import torch
    except ImportError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def _numbers(value: object) -> object:
    return [part for part in value.replace(",", " ").split() if part] if isinstance(value, str) else value


class ServingSettings(BaseSettings):
    """The settings; each is an environment variable, its name in capitals behind ``SERVING_``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, use_attribute_docstrings=True
    )

    network: str = "matched"
    """What to serve: a run the package ships (matched, wide), the folder of a run that selector.train learned
    from, or a network without policies, by its name (resnet50) or its code (my_net.py:FUNCTION), which then runs its default
    or what a request forces. A folder that is called like a network is ./NAME."""
    weights: str = "default"
    """Weights of a network given by name: default (ImageNet's for resnet50), a torchvision weights name, or a file."""
    dynamic_layers: str = ""
    """Of a network given by name: module names of its dynamic layers, separated by commas; the paper's four know theirs."""
    resolution: Annotated[int, Field(ge=1)] | None = None
    """Of a network given by name: side in pixels of its pictures, unless that of its library, or 224."""
    mean: Annotated[tuple[float, ...] | None, NoDecode, BeforeValidator(_numbers)] = None
    """Of a network given by name: what is subtracted from each channel, as fractions of white, separated by commas; unless
    given its library's, or ImageNet's."""
    std: Annotated[tuple[float, ...] | None, NoDecode, BeforeValidator(_numbers)] = None
    """Of a network given by name: what each channel is divided by; as for SERVING_MEAN."""
    preprocessing: str = ""
    """Of a network given by name, instead of these three: a JSON file of a preprocessing, or FILE.py:NAME of a transform."""
    policy: str | None = None
    """Which policy chooses unless a request names one; unless given, the learned one that serves the objective best
    by cross-validation, or default where none beats it."""
    objective: Objective = "efficiency"
    """What chooses the policy's operating point: accuracy, default_cost or efficiency."""
    static: bool = False
    """Serve the default configuration alone, with the network's own batch norms folded into its convolutions: what one would
    deploy without policies, and so the baseline of python -m benchmarks.serving."""
    device: str = _default_device()
    """Where the network runs."""
    runtime: Literal["auto", "onnxruntime", "openvino", "torch"] = "auto"
    """What runs a network on a CPU: onnxruntime or openvino, which run the graphs of a compiled run (made at the first start
    where they are missing), or torch, the eager engine. auto is onnxruntime (openvino for bfloat16), and torch, with a line
    on stderr that says why, for what cannot be compiled; on other devices than the CPU always torch."""
    precision: Literal["float32", "bfloat16", "int8"] = "float32"
    """What compiled graphs compute in. bfloat16 needs OpenVINO and a CPU that has it."""
    workers: Annotated[int, Field(ge=1, le=64)] = min(_CORES, 4)
    """Processes, each with a copy of the network."""
    threads: Annotated[int, Field(ge=1, le=256)] = max(1, _CORES // min(_CORES, 4))
    """Threads of the network in each process; all graphs share them."""
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 128
    """Images the network runs together, at most."""
    max_wait_ms: Annotated[float, Field(ge=0, le=1000)] = 2.0
    """How long the first image of a batch waits for others, in milliseconds."""
    max_queue: Annotated[int, Field(ge=1, le=100_000)] = 512
    """Images that may wait in each process; more are refused with 503."""
    max_uploads: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Requests whose bodies are read at a time in each process; more are refused with 503."""
    max_images: Annotated[int, Field(ge=1, le=1024)] = 64
    """Images a request may carry."""
    max_body_mib: Annotated[float, Field(gt=0, le=1024)] = 32.0
    """Size of a request, in MiB; larger ones are refused with 413."""
    max_megapixels: Annotated[float, Field(gt=0, le=170)] = 25.0
    """Pixels of an image, in millions, and a quarter of what a request may have; larger ones are refused with 413 before
    they are decoded."""
    upload_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """How long a client may take to send a body; then 408."""
    database: str = "sqlite:///runs/serving.db"
    """Where answers, labels and kept images are: a URL of SQLite (sqlite:///FILE) or PostgreSQL
    (postgresql://USER:PASSWORD@HOST/NAME), or none to serve without feedback. See SERVING_STATE_DIRECTORY."""
    remember_hours: Annotated[float, Field(gt=0)] = 24.0
    """How long the label of an answered request may come."""
    keep: Literal["never", "asked", "all"] = "asked"
    """Which images are kept for comparison with the oracle: none, those of requests that say keep=true, or all."""
    keep_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """How long an image is kept, at most; it is deleted as soon as it has been evaluated."""
    keep_mib: Annotated[float, Field(gt=0)] = 256.0
    """Size of all kept images together, in MiB."""
    evaluate_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the requests, drawn by their ids, whose labelled images are run under every configuration."""
    evaluate_per_hour: Annotated[float, Field(ge=0)] = 3600.0
    """Images so evaluated, at most, over all processes."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level of the service's own log, JSON lines on stderr."""

    # Operation.
    state_directory: str = ""
    """Folder that a SQLite file with a relative path is in; unless given the current folder, or that of the user's
    programs ($XDG_STATE_HOME/dynamic-classifier) where a bento is served, since whoever gets the bento gets its files."""
    keep_days: Annotated[float, Field(gt=0)] = 90.0
    """How long labels and evaluations are kept."""
    keep_rows: Annotated[int, Field(ge=1)] = 1_000_000
    """Answers, labels and evaluations that are kept, at most, of each; the oldest go first."""
    label_changes: Annotated[int, Field(ge=0)] = 3
    """How often the label of an answer may be replaced by another one."""
    label_seconds: Annotated[float, Field(ge=0)] = 3600.0
    """How long after an answer's first label it may be replaced."""
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """After SIGTERM: how long the server still answers while /readyz says 503 already, so that load balancers notice."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_queue < self.max_images:
            raise ValueError(
                f"SERVING_MAX_QUEUE={self.max_queue} must be at least SERVING_MAX_IMAGES={self.max_images}: "
                "a whole request must fit"
            )
        if self.precision != "float32" and not self.compiled:
            raise ValueError(
                f"SERVING_PRECISION={self.precision} needs compiled graphs: leave out SERVING_DEVICE={self.device} and "
                f"SERVING_RUNTIME={self.runtime}"
            )
        if self.runtime in ("onnxruntime", "openvino") and self.device != "cpu":
            raise ValueError(f"SERVING_RUNTIME={self.runtime} runs on the cpu, not on SERVING_DEVICE={self.device}")
        if self.runtime == "onnxruntime" and self.precision == "bfloat16":
            raise ValueError("SERVING_PRECISION=bfloat16 needs SERVING_RUNTIME=openvino: ONNX Runtime has none on CPUs")
        return self

    @property
    def compiled(self) -> bool:
        """Whether graphs are to run, where the network can be compiled."""
        return self.device == "cpu" and self.runtime != "torch"

    @property
    def database_url(self) -> str:
        """Where the database is: a relative SQLite file in the folder that ``state_directory`` explains."""
        return in_state_folder(self.database, self.state_directory)


def read_settings() -> ServingSettings:
    """The settings of this process.

    Raises:
        UserError: naming every variable that is wrong, what it was and what would be right; also unknown ``SERVING_``
            variables, with the nearest known one.
    """
    known = {f"{PREFIX}{name.upper()}" for name in ServingSettings.model_fields}
    problems = []
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, 1)
            problems.append(f"{name} is not a setting" + (f": did you mean {near[0]}?" if near else ""))
    try:
        settings = ServingSettings()
    except ValidationError as error:
        for found in error.errors():
            name = f"{PREFIX}{str(found['loc'][0]).upper()}" if found["loc"] else PREFIX
            if not found["loc"]:
                problems.append(found["msg"].removeprefix("Value error, "))
            elif name in known:
                problems.append(f"{name}={found['input']!r}: {found['msg'].lower()}")
        raise UserError("wrong settings: " + "; ".join(problems)) from error
    if problems:
        raise UserError("wrong settings: " + "; ".join(problems))
    if settings.device != "cpu":
        _check_device(settings.device)
    return settings


def _check_device(device: str) -> None:
    try:
        from dynamic.command import check_device
    except ImportError as error:
        raise UserError(f"wrong settings: {PREFIX}DEVICE={device} needs PyTorch, which is not installed") from error
    try:
        check_device(device)
    except UserError as error:
        raise UserError(f"wrong settings: {str(error).replace('--device ', f'{PREFIX}DEVICE=')}") from error


def main() -> None:
    """Print every setting with its default and what it does."""
    for name, field in ServingSettings.model_fields.items():
        print(f"{PREFIX}{name.upper()} (default {field.default if field.default is not None else 'none'})")
        print(textwrap.indent(textwrap.fill(str(field.description), 110), "    "))


if __name__ == "__main__":
    main()
