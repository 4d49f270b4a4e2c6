"""The settings of the service: environment variables.

SERVING_NETWORK=runs/mine SERVING_WORKERS=2 bentoml serve
python -m serving.settings                    # lists them all
"""

from __future__ import annotations

import difflib
import os
import re
import textwrap
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

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


_KUBERNETES = re.compile(
    r"SERVING_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII
)
"""Variables that Kubernetes gives every container for a Service called "serving", or "serving-" and something."""


def _words(value: object) -> object:
    return [word for part in value.split(",") if (word := part.strip())] if isinstance(value, str) else value


def _is_kubernetes(name: str, value: str) -> bool:
    """Whether Kubernetes set a variable, not an operator: its name, or SERVING_PORT=tcp://..., says so.

    >>> _is_kubernetes("SERVING_PORT", "tcp://10.0.0.1:3000"), _is_kubernetes("SERVING_PORT", "3000")
    (True, False)
    """
    if _KUBERNETES.fullmatch(name):
        return True
    return bool(re.fullmatch(r"SERVING_(\w+_)?PORT", name) and re.match(r"(tcp|udp|sctp)://", value))


def _numbers(value: object) -> object:
    return [part for part in value.replace(",", " ").split() if part] if isinstance(value, str) else value


class ServingSettings(BaseSettings):
    """The settings; each is an environment variable, its name in capitals behind ``SERVING_``.

    Made in Python, they are what is given and the defaults; :func:`read_settings` reads the environment.
    """

    from_environment: ClassVar[bool] = False

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
    tolerance: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Share of accuracy that the active policy may lose to the default (0.01: a point), by the guarantee stored with it: the
    cheapest setting that surely keeps to it is active, and where there is none the start ends. Unless given, the tolerance
    that the policies were trained for, and the default where none keeps to it. With the objective efficiency."""
    shadow_policy: str | None = None
    """A second policy of the run, or default, that answers a share of the images again for comparison, while the server has
    nothing else to do: /v1/gap has both side by side."""
    shadow_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Of the images answered by the active policy, those that the shadow is to answer too, drawn by their ids."""
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
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 32 if _default_device() == "cpu" else 128
    """Images the network runs together, at most; 32 unless there is a GPU: on a CPU more take memory and save nothing."""
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
    max_megapixels: Annotated[float, Field(gt=0, le=170)] = 64.0
    """Pixels of an image as stored, in millions; larger ones are refused with 413 before they are decoded."""
    upload_seconds: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """How long a client may take to send a body; then 408. A photo of 12 MiB takes 100 s at 1 Mbit a second."""
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

    # The HTTP edge: limits of pictures, connections and clients.
    max_decoded_megapixels: Annotated[float, Field(gt=0, le=170)] = 25.0
    """Pixels of an image as its decoder makes it, in millions, and a tenth of what a request may have. Plain JPEG of more
    are decoded smaller; what cannot be (PNG, WebP, progressive JPEG) is refused with 413."""
    upload_grace_seconds: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """How long a body may take before it has to keep the pace of SERVING_UPLOAD_KIB_PER_SECOND."""
    upload_kib_per_second: Annotated[float, Field(ge=0)] = 16.0
    """What a client must send of a body, on average since the grace; slower ones get 408. 0 for any pace."""
    header_seconds: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """How long a new connection may be silent, or any send a request's head; then 408, and the connection is closed."""
    keep_alive_seconds: Annotated[float, Field(gt=0, le=3600)] = 75.0
    """How long a connection that had an answer may be silent. It must be longer than the load balancer in front keeps its
    idle connections (most: 60 s), which would else send a request into one that is being closed."""
    max_header_kib: Annotated[float, Field(gt=0, le=1024)] = 32.0
    """Size of a request's head, in KiB; larger ones are refused with 431."""
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Connections of each process, and at most half of the files it may open; for one more the longest idle one goes."""
    reading_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """How long a client may leave parts of its answers unread; then the connection is cut."""
    end_seconds: Annotated[float, Field(gt=0, le=3600)] = 20.0
    """After SIGTERM and SERVING_DRAIN_SECONDS: how long requests under way may take; then their connections are cut."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = ("*",)
    """Host names that requests may be addressed to, separated by commas, *.example.org for all below; * for any."""
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = ()
    """Origins whose pages may call the service from a browser, separated by commas (https://app.example.org); * for any."""
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_words)] = ()
    """Keys of clients, separated by commas, each at least 16 characters; with any, a request without one gets 401, but for
    probes and the page. They are sent as "Authorization: Bearer KEY" or "X-API-Key: KEY"."""
    operator_keys: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_words)] = ()
    """Keys of operators, likewise: good for all that clients may, and for SERVING_PRIVATE_PATHS."""
    private_paths: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = ()
    """Pages that only operators may have, separated by commas (/metrics,/v1/gap,/v1/feedback); others get 403."""
    requests_per_minute: Annotated[float, Field(ge=0)] = 0.0
    """Of one client (its key, else its address) to the classify pages of all processes together, on average; more get 429.
    0 for any number."""
    feedback_per_minute: Annotated[float, Field(ge=0)] = 0.0
    """Labels of one client, likewise."""
    batch_share: Annotated[int, Field(ge=1, le=1024)] = 16
    """Images of one request in a batch, at most, so that a request of many leaves room for others."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_queue < self.max_images:
            raise ValueError(
                f"SERVING_MAX_QUEUE={self.max_queue} must be at least SERVING_MAX_IMAGES={self.max_images}: "
                "a whole request must fit"
            )
        if self.tolerance is not None and self.objective != "efficiency":
            raise ValueError(f"SERVING_TOLERANCE={self.tolerance:g} goes with SERVING_OBJECTIVE=efficiency")
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

    @model_validator(mode="after")
    def _says_who(self) -> Self:
        for name in ("api_keys", "operator_keys"):
            if any(len(key.get_secret_value()) < 16 for key in getattr(self, name)):
                raise ValueError(f"{PREFIX}{name.upper()} has a key under 16 characters: make one with openssl rand -hex 16")
        if self.private_paths and not self.operator_keys:
            raise ValueError("SERVING_PRIVATE_PATHS needs SERVING_OPERATOR_KEYS: nobody could have these pages")
        if wrong := next((path for path in self.private_paths if not path.startswith("/")), None):
            raise ValueError(f"SERVING_PRIVATE_PATHS: {wrong!r} is no path: /{wrong}")
        if wrong := next((o for o in self.cors_origins if o != "*" and not re.fullmatch(r"https?://[^/\s]+", o)), None):
            raise ValueError(f"SERVING_CORS_ORIGINS: {wrong!r} is no origin, such as https://app.example.org")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """One source: what is given, since apps of one process have nothing in common, or the environment."""
        return (env_settings if cls.from_environment else init_settings,)

    @property
    def compiled(self) -> bool:
        """Whether graphs are to run, where the network can be compiled."""
        return self.device == "cpu" and self.runtime != "torch"

    @property
    def database_url(self) -> str:
        """Where the database is: a relative SQLite file in the folder that ``state_directory`` explains."""
        return in_state_folder(self.database, self.state_directory)


class _OfEnvironment(ServingSettings):
    """The settings of this process."""

    from_environment: ClassVar[bool] = True


def read_settings() -> ServingSettings:
    """The settings of this process.

    Raises:
        UserError: naming every variable that is wrong, what it was and what would be right; also unknown ``SERVING_``
            variables, with the nearest known one.
    """
    known = {f"{PREFIX}{name.upper()}" for name in ServingSettings.model_fields}
    problems = []
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known and not _is_kubernetes(name, os.environ[name]):
            near = difflib.get_close_matches(name.upper(), known, 1)
            problems.append(f"{name} is not a setting" + (f": did you mean {near[0]}?" if near else ""))
    try:
        settings = _OfEnvironment()
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
