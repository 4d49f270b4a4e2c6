"""A run folder: where everything in it is, what it says of itself, and whether it is still what it was.

Every command and the service open runs here, shipped ones and one's own alike. A run carries what it needs to be used
without its images: class names, preprocessing, the network's weights (or the name of registered ones, with their digest) and
statistics. So it can be moved, zipped, mounted read-only and served from anywhere.

    run = Run.open(Path("runs/mine"))
    network = run.fast_network()
    outcomes = run.outcomes()
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
import xarray as xr
from safetensors.torch import load_file, save
from torch import Tensor

from dynamic import pictures
from dynamic.attributes.registry import source_of
from dynamic.configuration import Configuration, own_attributes
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.models import LoadedNetwork, ModelInfo, load, restore
from dynamic.models.neighbours import changed
from dynamic.network import DynamicNetwork
from dynamic.norms import Statistics
from oracle.data.listing import tell
from oracle.data.sources import SPLITS, ImageSource, open_source
from oracle.data.views import View, view_source
from oracle.outcomes import compare_identity, open_outcomes, stored_configurations
from oracle.run_folder import RunFolder
from oracle.run_record import OWN, RunRecord
from oracle.settings import DTYPES, SCENES_IMAGES, RunSettings


class Run(RunFolder):
    """A run folder with all that can be opened of it; see :class:`oracle.run_folder.RunFolder`."""

    def set(self, name: str) -> Run:
        """One of a study's sets of outcomes, a run of its own."""
        return Run(self.folder / "sets" / name)

    def keep_attributes(self, configurations: Iterable[Configuration]) -> None:
        """Copy the files of attributes of one's own that configurations use."""
        for name in own_attributes(configurations):
            self.attributes.mkdir(exist_ok=True)
            write_whole(self.attributes / f"{name}.py", source_of(name))

    @cached_property
    def settings(self) -> RunSettings:
        """What the run was asked for, with ``out`` where it is now."""
        stored = dict(self.record.settings)
        folders = {"data_dir": Path(stored["data_dir"])} if stored.get("data_dir") else {}
        if stored.get("class_map"):
            folders["class_map"] = self.class_map_file  # a copy, which moves with the run
        lists = {name: tuple(stored[name]) for name in ("mean", "std") if stored.get(name) is not None}
        try:
            return RunSettings(**(stored | folders | lists | {"out": self.folder, "device": "cpu"}))
        except TypeError as error:
            raise UserError(f"{self.record_file}: another version made the run ({error})") from error

    @cached_property
    def network(self) -> LoadedNetwork:
        """The network that the run ran.

        Raises:
            UserError: its weights are missing, damaged or others; or it was given in Python: pass it to :meth:`adopt`.
        """
        record = self.record.network
        if record.own:
            raise UserError(
                f"the network {record.model} of {self.folder} was given in Python, and no command can make it: put a "
                "function that returns it into a file and run oracle.run with --model FILE.py:FUNCTION --weights "
                f"{self.weights_file}, or go on in Python with Run.open(folder).adopt(network)"
            )
        if record.registered is not None:
            network = load(record.model, record.registered, record.dynamic_layers, preprocessing=self.record.preprocessing)
        else:
            self.verify(self.weights_file)
            if record.file is not None:
                self.verify(self.network_file)
            network = restore(
                record.model,
                load_file(self.weights_file),
                record.classes,
                record.dynamic_layers,
                weights=record.weights,
                preprocessing=self.record.preprocessing,
                file=None if record.file is None else self.folder / record.file,
            )
            others = changed(record.neighbours, network.info.neighbours, all_known=record.file is not None)
            if others:
                raise UserError(
                    f"{', '.join(others)}, which {record.model} needs, is not what {self.folder} was made with: restore "
                    "what it was, or make the run again"
                )
        self._require_network(network)
        return network

    def adopt(self, network: LoadedNetwork) -> Run:
        """Use ``network``, which the run was made with in Python; raises UserError where it is another one."""
        self._require_network(network)
        self.__dict__["network"] = network
        return self

    def _require_network(self, network: LoadedNetwork) -> None:
        record = self.record.network
        compare_identity(
            self.folder,
            {"model": record.model, "weights_digest": record.digest, "dynamic_layers": ",".join(record.dynamic_layers)},
            {
                "model": network.info.name,
                "weights_digest": network.digest,
                "dynamic_layers": ",".join(network.dynamic_layers),
            },
            "it goes with the network that it was made with",
        )

    @cached_property
    def statistics(self) -> Statistics | None:
        """Recalibrated batch norms, None where the network keeps its own."""
        if self.record.statistics == OWN:
            return None
        self.verify(self.statistics_file)
        return Statistics.load(self.statistics_file)

    def fast_network(self, device: str = "cpu", packed: bool = False) -> DynamicNetwork:
        """The network for ``device`` in the run's type, with the run's statistics; ``packed`` for small batches on a CPU."""
        return self.network.for_inference(device, DTYPES[self.settings.dtype], self.statistics, packed)

    @cached_property
    def configurations(self) -> tuple[Configuration, ...]:
        """That the run evaluated, in the order of its columns."""
        self.verify(self.outcomes_store / "configuration")
        return stored_configurations(self.outcomes_store)

    def outcomes(self) -> xr.Dataset:
        """See :func:`oracle.outcomes.open_outcomes`; raises UserError where a chunk is damaged."""
        self.verify(self.outcomes_store)
        return open_outcomes(self.outcomes_store)

    def images(self, data_dir: Path | None = None) -> ImageSource:
        """The images that the run evaluated.

        Args:
            data_dir: where they are now; unless given, where they were.

        Raises:
            UserError: they are not there, or no longer the same.
        """
        tell_of_old_pictures(self.folder, self.record)
        settings = self.settings if data_dir is None else replace(self.settings, data_dir=data_dir)
        splits = tuple(self.record.images.get("splits", ",".join(SPLITS)).split(","))
        source = open_images(settings, self.network.info, splits)
        compare_identity(
            self.folder, self.record.images, source.identity, "--data-dir must be the folder of the run's images"
        )
        return source

    @property
    def view(self) -> View:
        """What became of an image behind its preprocessing."""
        return View(self.settings.crop, self.settings.resize)


def tell_of_old_pictures(folder: Path, record: RunRecord) -> None:
    """Say on stderr where a run on image files saw other pixels of some of them than it would see now."""
    if record.images["dataset"] != "fashion-scenes" and record.versions.get("pictures") != pictures.VERSION:
        tell(
            f"{folder} was made by a version that read some pictures differently (turned by EXIF, transparent, of 16 bits): "
            "where there are such ones, make it anew in another --out"
        )


def write_weights(network: LoadedNetwork, path: Path) -> None:
    """A copy of a network's tensors, whatever their layout in memory."""
    layout = torch.contiguous_format
    tensors = network.original.state_dict().items()
    state: dict[str, Tensor] = {name: value.detach().cpu().clone(memory_format=layout) for name, value in tensors}
    write_whole(path, save(state))


def open_images(settings: RunSettings, info: ModelInfo, splits: tuple[str, ...] = SPLITS) -> ImageSource:
    """The images that ``settings`` name, as the network sees them; raises UserError where they are not there."""
    images = settings.images
    if images is None and settings.dataset == "fashion-scenes":
        images = SCENES_IMAGES
    source = open_source(
        settings.dataset,
        info,
        images=images,
        data_dir=settings.data_dir,
        regime=settings.regime,
        seed=settings.seed,
        class_map=settings.class_map,
    )
    return view_source(source, View(settings.crop, settings.resize, splits))
