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
from dynamic.attributes.registry import register, source_of
from dynamic.configuration import Configuration, own_attributes
from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.integrity import digest_of_file, read_record, write_record
from dynamic.models import LoadedNetwork, ModelInfo, load, restore
from dynamic.models.neighbours import changed
from dynamic.network import DynamicNetwork
from dynamic.norms import Statistics
from oracle.data.listing import tell
from oracle.data.sources import SPLITS, ImageSource, open_source
from oracle.data.views import View, view_source
from oracle.outcomes import compare_identity, load_outcomes, stored_configurations
from oracle.run_record import OWN, Digests, RunRecord
from oracle.settings import DTYPES, SCENES_IMAGES, RunSettings


class Run:
    """A run folder: the layout by itself, the rest once there is a ``run.json``.

    Args:
        folder: of the run; nothing is read or made.

    >>> Run(Path("runs/mine")).policies
    PosixPath('runs/mine/policies')
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record_file = folder / "run.json"
        self.outcomes_store = folder / "outcomes.zarr"
        self.statistics_file = folder / "statistics.safetensors"
        self.weights_file = folder / "weights.safetensors"
        self.network_file = folder / "network.py"
        self.class_map_file = folder / "class_map.json"
        self.attributes = folder / "attributes"
        self.labels = folder / "labels.parquet"
        self.summary = folder / "summary.json"
        self.report = folder / "report.html"
        self.figures = folder / "figures"
        self.study_tables = folder / "study.md"
        self.bounds = folder / "bounds"
        self.observations = folder / "observations"
        self.policies = folder / "policies"
        self.benchmark = folder / "benchmark"
        self.results = self.benchmark / "results.json"

    def shifted(self, name: str) -> Path:
        """Observations of the test images of another run, called ``name``."""
        return self.folder / "observations-of" / name

    @property
    def _relied_on(self) -> tuple[Path, ...]:
        """Files beside the outcomes that others rely on, where they are there."""
        return self.statistics_file, self.weights_file, self.network_file, self.class_map_file, self.labels

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name

    def set(self, name: str) -> Run:
        """One of a study's sets of outcomes, a run of its own."""
        return Run(self.folder / "sets" / name)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """A finished run; attributes of one's own that it used are registered, from the run's copies of their files.

        Raises:
            UserError: no run there, one that is not finished, damaged, or made by an earlier version; or an attribute that
                is registered in another version.
        """
        run = cls(folder)
        if not run.record_file.is_file():
            command = f"python -m oracle.run --out {folder}"
            if (folder / "settings.json").exists() or run.outcomes_store.exists():
                raise UserError(
                    f"{folder} has outcomes but no {run.record_file.name}: it is not finished, or an earlier version's; "
                    "start its command again, which evaluates only what is missing"
                )
            raise UserError(f"no run in {folder} (no {run.record_file.name}): make one with {command}")
        if not run.record.files:
            raise UserError(f"the run in {folder} is not finished: start its command again")
        kept = [folder / name for name in run.record.files if name.startswith(f"{run.attributes.name}/")]
        for path in kept:
            run.verify(path)
            register(path)
        return run

    def keep_attributes(self, configurations: Iterable[Configuration]) -> None:
        """Copy the files of attributes of one's own that configurations use."""
        for name in own_attributes(configurations):
            self.attributes.mkdir(exist_ok=True)
            write_whole(self.attributes / f"{name}.py", source_of(name))

    @cached_property
    def record(self) -> RunRecord:
        """What ``run.json`` says. Raises UserError where it is missing or damaged."""
        content = read_record(self.record_file)
        try:
            return RunRecord.from_json(content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.record_file} has wrong entries ({error}): another version made the run") from error

    def write_record(self, record: RunRecord) -> None:
        """Store ``run.json``."""
        write_record(self.record_file, record.to_json())
        self.__dict__["record"] = record

    def seal(self) -> None:
        """List every file that others rely on with its digest: the run is finished."""
        wanted = [*self._relied_on, *sorted(self.attributes.glob("*.py")), *sorted(self.outcomes_store.rglob("*"))]
        files = {path.relative_to(self.folder).as_posix(): digest_of_file(path) for path in wanted if path.is_file()}
        self.write_record(replace(self.record, files=files))

    def verify_all(self) -> None:
        """:meth:`verify` everything that is listed."""
        for path in (*self._relied_on, self.attributes, self.outcomes_store):
            if any(name.startswith(path.name) for name in self.record.files):
                self.verify(path)

    def verify(self, path: Path) -> None:
        """Compare a file, or all files below a folder, with the digests in ``run.json``.

        Raises:
            UserError: one is missing or was changed; the message names it.
        """
        below = path.relative_to(self.folder).as_posix()
        listed = {
            name: digest for name, digest in self.record.files.items() if name == below or name.startswith(f"{below}/")
        }
        if not listed:
            raise UserError(f"{self.record_file} lists no {below}: start the run's command again")
        for name, digest in listed.items():
            file = self.folder / name
            try:
                found = digest_of_file(file)
            except OSError as error:
                raise UserError(
                    f"{file} is missing or cannot be read ({error.strerror}): restore it from a copy, or make the run again"
                ) from error
            if found != digest:
                raise UserError(f"{file} is damaged: it differs from its digest in run.json; restore a copy")

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
                    f"{', '.join(others)}, which {record.model} imports, is not what {self.folder} was made with: restore "
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
        """See :func:`oracle.outcomes.read_outcomes`; raises UserError where a chunk is damaged."""
        self.verify(self.outcomes_store)
        return load_outcomes(self.outcomes_store)

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

    @property
    def digests(self) -> Digests:
        """See :class:`Digests`."""
        return Digests(weights=self.record.network.digest, statistics=self.record.statistics)


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
