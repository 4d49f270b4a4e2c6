"""The settings of the service: environment variables.

SERVING_NETWORK=runs/mine SERVING_WORKERS=2 bentoml serve
python -m serving.settings                    # lists them all
"""

from __future__ import annotations

import difflib
import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, Self

import torch
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dynamic.command import check_device
from dynamic.errors import UserError
from dynamic.models import NetworkSettings
from dynamic.resources import cpu_count
from selector.policies.objectives import Objective
from serving.operation.state_folder import in_state_folder

PREFIX = "SERVING_"

_CORES = cpu_count()


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
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the network runs."""
    workers: Annotated[int, Field(ge=1, le=64)] = min(_CORES, 4)
    """Processes, each with a copy of the network."""
    threads: Annotated[int, Field(ge=1, le=256)] = max(1, _CORES // min(_CORES, 4))
    """Threads of the network in each process."""
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
        return self

    @property
    def database_url(self) -> str:
        """Where the database is: a relative SQLite file in the folder that ``state_directory`` explains."""
        return in_state_folder(self.database, self.state_directory)

    @property
    def by_name(self) -> NetworkSettings:
        """The network that the settings name where they name no run.

        Raises:
            UserError: options that do not go together; it names the variables.
        """
        with in_variables():
            return NetworkSettings(
                model=self.network,
                weights=self.weights,
                dynamic_layers=self.dynamic_layers,
                resolution=self.resolution,
                mean=self.mean,
                std=self.std,
                preprocessing=self.preprocessing,
            )


@contextmanager
def in_variables() -> Iterator[None]:
    """Errors that name options of a command line name the environment variables instead."""
    try:
        yield
    except UserError as error:
        names = "|".join(name.replace("_", "-") for name in NetworkSettings.__dataclass_fields__ if name != "model")
        text = re.sub(rf"--({names}) (?=FILE|none|\S+[,./]\S)", lambda found: f"{_variable(found[1])}=", str(error))
        raise UserError(re.sub(rf"--({names})\b", lambda found: _variable(found[1]), text)) from error


def _variable(option: str) -> str:
    return PREFIX + option.upper().replace("-", "_")


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
    try:
        check_device(settings.device)
    except UserError as error:
        raise UserError(f"wrong settings: {str(error).replace('--device ', f'{PREFIX}DEVICE=')}") from error
    return settings


def main() -> None:
    """Print every setting with its default and what it does."""
    for name, field in ServingSettings.model_fields.items():
        print(f"{PREFIX}{name.upper()} (default {field.default if field.default is not None else 'none'})")
        print(textwrap.indent(textwrap.fill(str(field.description), 110), "    "))


if __name__ == "__main__":
    main()
