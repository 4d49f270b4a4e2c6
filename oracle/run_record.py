"""What ``run.json`` says: which network, which images, which digests a run's answers depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamic.errors import UserError

if TYPE_CHECKING:
    from dynamic.preprocessing import Preprocessing

OWN = "own"
"""Stands for the digest of statistics where the network keeps its own."""


@dataclass(frozen=True, kw_only=True)
class Digests:
    """What decides a network's answers; whatever was learned or measured of a run carries it.

    Attributes:
        weights: of the network.
        statistics: of the recalibrated batch norms, :data:`OWN` where there are none.
    """

    weights: str
    statistics: str

    @classmethod
    def of(cls, facts: object, path: Path) -> Digests:
        """Read them from what ``path`` holds. Raises UserError where they are missing."""
        if not isinstance(facts, Mapping) or not all(isinstance(facts.get(name), str) for name in ("weights", "statistics")):
            raise UserError(f"{path} does not say which network it belongs to: an earlier version made it; make it again")
        return cls(weights=facts["weights"], statistics=facts["statistics"])

    def require(self, theirs: Digests, path: Path, remedy: str) -> None:
        """Raise UserError where ``path`` belongs to another network, naming what differs."""
        different = [
            f"{name} {getattr(theirs, name)} there, {getattr(self, name)} here"
            for name in ("weights", "statistics")
            if getattr(theirs, name) != getattr(self, name)
        ]
        if different:
            raise UserError(f"{path} belongs to another network ({'; '.join(different)}): {remedy}")


@dataclass(frozen=True, kw_only=True)
class NetworkRecord:
    """Which network a run ran.

    Attributes:
        model: its name, as for :func:`dynamic.load`.
        dynamic_layers: names of its modules.
        classes: how many it tells apart.
        weights: which, for people.
        registered: name under which package or library have the weights; None where the run holds a copy of them.
        digest: of the weights.
        slim: whether it is one of the project's small stand-ins.
        own: whether it was given in Python, so that no name can build it again.
        file: the run's copy of the Python file that makes it; None where a library or an installed package does.
        neighbours: digests of what that imported from beside itself, by file, or of the package's modules; the run does not
            keep them.
    """

    model: str
    dynamic_layers: tuple[str, ...]
    classes: int
    weights: str
    registered: str | None
    digest: str
    slim: bool
    own: bool = False
    file: str | None = None
    neighbours: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """``run.json``.

    Attributes:
        settings: what was asked for; where images were, as an absolute path.
        images: identity of the images: two runs with the same saw the same.
        network: see :class:`NetworkRecord`.
        class_names: one for each class of the network.
        preprocessing: what a picture goes through before the run's view.
        resolution: side in pixels of what the network saw.
        statistics: digest of the recalibrated batch norms, :data:`OWN` where there are none.
        versions: that made the outcomes.
        files: SHA-256 by path below the run of everything that others rely on; empty until the run is finished.
    """

    settings: dict[str, Any]
    images: dict[str, str]
    network: NetworkRecord
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    resolution: int
    statistics: str
    versions: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As :meth:`from_json` reads it."""
        return asdict(self) | {"preprocessing": self.preprocessing.to_json()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunRecord:
        """Raises KeyError, TypeError or UserError where ``content`` is something else."""
        from dynamic.preprocessing import Preprocessing  # here, so that digests are read without torch

        network = NetworkRecord(**{**content["network"], "dynamic_layers": tuple(content["network"]["dynamic_layers"])})
        return cls(
            **{
                **content,
                "network": network,
                "class_names": tuple(content["class_names"]),
                "preprocessing": Preprocessing.from_json(content["preprocessing"]),
            }
        )
