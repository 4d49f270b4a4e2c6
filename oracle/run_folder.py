"""A run folder without its network and outcomes: where everything is, what ``run.json`` says, whether files are whole.

A service that runs a compiled portfolio needs no more than this of a run; :class:`oracle.runs.Run` opens the rest.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

from dynamic.attributes.registry import register
from dynamic.errors import UserError
from dynamic.integrity import digest_of_file, read_record, write_record
from oracle.run_record import Digests, RunRecord


class RunFolder:
    """A run folder: the layout by itself, the rest once there is a ``run.json``.

    Args:
        folder: of the run; nothing is read or made.


    >>> RunFolder(Path("runs/mine")).policies
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
        self.searched = folder / "searched"
        self.compiled = folder / "compiled"
        self.rivals = folder / "rivals.json"
        self.benchmark = folder / "benchmark"
        self.results = self.benchmark / "results.json"
        self.reached = self.benchmark / "reached.json"

    def shifted(self, name: str) -> Path:
        """Observations of the test images of another run, called ``name``."""
        return self.folder / "observations-of" / name

    @property
    def _relied_on(self) -> tuple[Path, ...]:
        """Files beside the outcomes that others rely on, where they are there."""
        return self.statistics_file, self.weights_file, self.network_file, self.class_map_file, self.labels

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r})"

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name

    @classmethod
    def open(cls, folder: Path) -> Self:
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

    @property
    def digests(self) -> Digests:
        """See :class:`Digests`."""
        return Digests(weights=self.record.network.digest, statistics=self.record.statistics)
