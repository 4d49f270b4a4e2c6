"""All that a process elsewhere needs to do a task on a run's images, without a file of the machine that sends it."""

from __future__ import annotations

import os
import platform
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic

import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save
from torch import nn

import dynamic
from dynamic import pictures
from dynamic.attributes.registry import register, source_of
from dynamic.configuration import own_attributes
from dynamic.errors import UserError
from dynamic.models import LoadedNetwork, ModelInfo, restore
from dynamic.models.own_code import CodeName
from oracle.data.sources import SPLITS, ImageSource
from oracle.evaluation.jobs import Compute, Job, Result, Task
from oracle.runs import open_images
from oracle.settings import RunSettings

DATA_DIR = "ORACLE_DATA_DIR"
"""Variable of a machine's environment: where the images lie there, if not where ``--data-dir`` says."""


def device_kind(device: str) -> str:
    """What has to be the same for two processes to compute the same bits: hardware and versions, for people too.

    >>> device_kind("cpu").startswith("cpu ")
    True
    """
    kind = torch.device(device).type
    if kind == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"{_cpu_vendor()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{kind} {hardware}, torch {torch.__version__}, pictures {pictures.VERSION}"


def _cpu_vendor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), platform.machine())


@dataclass(frozen=True, kw_only=True)
class PortableTask(Generic[Result]):
    """A task (:class:`oracle.evaluation.jobs.Task`) without its regions, to be pickled.

    Attributes:
        settings: of the run.
        splits: of the images.
        images: identity of the images, which must be found where this is opened.
        job: what to do.
        info: of the network; ``file`` is the sender's.
        digest: of the network's weights.
        weights: every tensor of the network, as a safetensors file has them; empty where ``module`` is there.
        module: the network itself, where it was given in Python.
        dynamic_layers: names of its modules.
        attributes: files of attributes of one's own that the configurations vary.
        class_map: the file, where one was given.
        kind: of the device; see :func:`device_kind`.
    """

    settings: RunSettings
    splits: tuple[str, ...]
    images: dict[str, str]
    job: Job[Result]
    info: ModelInfo
    digest: str
    weights: bytes
    module: nn.Module | None
    dynamic_layers: tuple[str, ...]
    attributes: tuple[bytes, ...]
    class_map: bytes | None
    kind: str

    @classmethod
    def of(cls, task: Task[Result]) -> PortableTask[Result]:
        """Of a task that is open here."""
        settings, network, source = task.settings, task.network, task.source
        layout = torch.contiguous_format
        state = network.original.state_dict().items()
        weights = {name: value.detach().cpu().clone(memory_format=layout) for name, value in state}
        return cls(
            settings=settings,
            splits=tuple(source.identity.get("splits", ",".join(SPLITS)).split(",")),
            images=dict(source.identity),
            job=task.job,
            info=network.info,
            digest=network.digest,
            weights=b"" if network.info.own else save(weights),
            module=network.original if network.info.own else None,
            dynamic_layers=tuple(network.dynamic_layers),
            attributes=tuple(source_of(name) for name in own_attributes(task.job.configurations)),
            class_map=settings.class_map.read_bytes() if settings.class_map is not None else None,
            kind=device_kind(settings.device),
        )

    def open(self, cores: int) -> tuple[ImageSource, Compute[Result]]:
        """Load the network and open the images, here.

        Args:
            cores: that may be used.

        Returns:
            The images, and what is to be done with some rows of them.

        Raises:
            UserError: another kind of device, or other images; or a file that the network imports is not here.
        """
        device = torch.device(self.settings.device).type
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError(f"no GPU here, the run computes on {self.kind}")
        if (kind := device_kind(device)) != self.kind:
            raise UserError(f"{kind} here, the run computes on {self.kind}: bits would differ")
        with tempfile.TemporaryDirectory() as folder:
            network = self._network(Path(folder))
            source = self._source(Path(folder), network.info)
        return source, self.job.opened(network, source, device, cores)

    def _network(self, folder: Path) -> LoadedNetwork:
        for position, content in enumerate(self.attributes):
            file = folder / f"attribute{position}.py"
            file.write_bytes(content)
            register(file)
        info = self.info
        if self.module is not None:
            network = dynamic.load(self.module, dynamic_layers=self.dynamic_layers, preprocessing=info.preprocessing)
        else:
            network = restore(
                info.name,
                tensors_of(self.weights),
                info.classes,
                self.dynamic_layers,
                weights=info.weights,
                preprocessing=info.preprocessing,
                file=self._file(folder),
            )
        if network.digest != self.digest:
            raise UserError(f"{info.name} has other weights here than where it was sent from: another version makes it")
        return network

    def _file(self, folder: Path) -> Path | None:
        """A copy of the Python file that makes the network; the file itself where it imports others beside it."""
        if self.info.file is None:
            return None
        if self.info.neighbours:
            return self.info.file.absolute()
        code = CodeName.parse(self.info.name)
        file = folder / (Path(code.where).name if code is not None else self.info.file.name)
        file.write_bytes(self.info.code)
        return file

    def _source(self, folder: Path, info: ModelInfo) -> ImageSource:
        settings = self.settings
        if self.class_map is not None:
            (folder / "class_map.json").write_bytes(self.class_map)
            settings = replace(settings, class_map=folder / "class_map.json")
        if settings.data_dir is not None and (here := os.environ.get(DATA_DIR)):
            settings = replace(settings, data_dir=Path(here))
        source = open_images(settings, info, self.splits)
        if source.identity != self.images:
            raise UserError(f"other images in {settings.data_dir} here than where the run was started")
        return source
