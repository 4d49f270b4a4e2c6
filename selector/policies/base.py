"""What every policy is: scikit-learn's habits, a dial between accuracy and cost, and files in open formats.

Parameters are given to ``__init__`` and never changed; what ``fit`` learns ends in ``_``; fitting again starts anew.

    policy = Correctness(seed=0).fit(label_observations)
    columns = policy.decide(images, dial)       # positions in the portfolio
    policy.save(folder); load_policy(folder)
"""

from __future__ import annotations

import gzip
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from safetensors.numpy import load_file, save

from dynamic.errors import UserError
from dynamic.files import write_whole
from dynamic.integrity import digest_of_file, read_record, write_record
from oracle.run_record import Digests
from selector.observation.images import Images, RecordedImages
from selector.observation.observations import Observations
from selector.policies.asking import Asks
from selector.policies.objectives import TERMS, Objective, OperatingPoint, Terms, best

POLICY = "policy.json"
"""What makes a folder a policy's."""

SOURCE = "policy.py"
"""Copy of the file of a policy of one's own."""

_FITTED_ON, _STATE = "fitted_on.parquet", "state.safetensors"
_CHOSEN_ON = "chosen_on"  # a column of the first, where the portfolio was chosen on some of the images


@dataclass(frozen=True, kw_only=True)
class KeysFile:
    """Where a saved policy keeps the keys of its images, and what that must be."""

    path: Path
    digest: str

    def read(self) -> tuple[frozenset[str], frozenset[str]]:
        """The keys, and those of them that the portfolio was chosen on.

        Raises:
            UserError: the file is missing, damaged or something else.
        """
        import pandas as pd  # here: who only decides does without

        try:
            if digest_of_file(self.path) != self.digest:
                raise UserError(f"{self.path} is damaged: it differs from its digest; fit the policy again")
            table = pd.read_parquet(self.path)
            chosen_on = table["image"][table[_CHOSEN_ON]] if _CHOSEN_ON in table else ()
            return frozenset(table["image"]), frozenset(chosen_on)
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{self.path} cannot be read ({error}): fit the policy again") from error


@dataclass
class State:
    """What a fitted policy consists of, by the format it is stored in: JSON, safetensors, text."""

    facts: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


class Policy(ABC):
    """Anything that maps an image to a configuration of a portfolio.

    Attributes:
        name: in tables and on disk.
        learned, from_views: whether it learns from labels which configuration suits which image; from further views too.
        earlier: values of parameters that policies saved by earlier versions do not have among theirs.
        source, source_path: content and place of the file that it is from, see :mod:`selector.policies.own`; else None.
        dials: settings of the dial, from accurate to cheap; empty for a policy without one.
        portfolio_: ids of the configurations it chooses among.
        fitted_on_: keys of the images it was fitted on; of a policy that was saved they are read when they are asked for.
        chosen_on_: those of them that the portfolio was chosen on, on which nothing is promised.
        fitted_on_file: of such a policy, where they are; else None.
        labels_, views_: how many these are, and how many views of each.
        promised_on_: images that the operating points were estimated on.
        digests_: of the network that these were observed with.
        points_: its operating points, once :func:`selector.learning.fitting.calibrate` has estimated them.
        terms_: of what these guarantee; None where nothing was, as in runs of earlier versions.
    """

    name: ClassVar[str]
    learned: ClassVar[bool] = True
    from_views: ClassVar[bool] = False
    earlier: ClassVar[Mapping[str, Any]] = {}
    source: ClassVar[bytes | None] = None
    source_path: ClassVar[Path | None] = None

    portfolio_: tuple[str, ...]
    digests_: Digests
    points_: tuple[OperatingPoint, ...]
    terms_: Terms | None = None
    fitted_on_file: KeysFile | None = None
    _fitted_on: frozenset[str] | None = None
    _chosen_on: frozenset[str] = frozenset()
    views_: int = 1
    _labels: int | None = None
    _promised_on: int | None = None

    @property
    def fitted_on_(self) -> frozenset[str]:
        """See the class. Raises UserError where their file is missing or damaged."""
        if isinstance(self.fitted_on_file, KeysFile) and self._fitted_on is None:
            self._fitted_on, self._chosen_on = self.fitted_on_file.read()
        return self._fitted_on or frozenset()

    @fitted_on_.setter
    def fitted_on_(self, keys: frozenset[str]) -> None:
        self._fitted_on, self._labels, self.fitted_on_file = keys, len(keys), None
        self.chosen_on_ = frozenset()

    @property
    def chosen_on_(self) -> frozenset[str]:
        """See the class. Raises UserError where their file is missing or damaged."""
        return self._chosen_on if self.fitted_on_ else frozenset()

    @chosen_on_.setter
    def chosen_on_(self, keys: frozenset[str]) -> None:
        self._chosen_on, self._promised_on = keys, len(self.fitted_on_ - keys)

    @property
    def labels_(self) -> int:
        """See the class."""
        return len(self.fitted_on_) if self._labels is None else self._labels

    @labels_.setter
    def labels_(self, count: int) -> None:
        self._labels = count

    @property
    def promised_on_(self) -> int:
        """See the class."""
        return self.labels_ if self._promised_on is None else self._promised_on

    @property
    def dials(self) -> Sequence[float]:
        """See the class."""
        return ()

    def parameters(self) -> dict[str, Any]:
        """What ``__init__`` was given."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def fresh(self) -> Self:
        """An unfitted copy."""
        return type(self)(**self.parameters())

    def fit(self, observed: Observations) -> Self:
        """Learn from the label split; whatever was learned before is forgotten.

        Raises:
            UserError: images of another split are among them, or none at all.
        """
        if not len(observed):
            raise UserError(f"{self.name} cannot be fitted on no images")
        if others := sorted(set(observed.splits) - {"label"}):
            raise UserError(f"policies learn from the label split only; these images are of the {others[0]} split")
        for learnt in [attribute for attribute in vars(self) if attribute.endswith("_")]:
            delattr(self, learnt)
        self.portfolio_, self.digests_ = tuple(c.id for c in observed.portfolio), observed.digests
        self.fitted_on_, self.points_ = frozenset(map(str, observed.keys)), ()
        self._fit(observed if self.source is None else observed.read_only())
        return self

    def decide(self, images: Images, dial: float | None = None) -> np.ndarray:
        """Choose a configuration for each image.

        Args:
            images: with the portfolio the policy was fitted on. Whatever the policy asks is charged to them.
            dial: one of ``dials``; the most accurate unless given. Policies without a dial ignore it.

        Returns:
            (N,) positions in the portfolio.

        Raises:
            UserError: not fitted, or fitted on another portfolio.
        """
        self._require(images)
        if not len(images):
            return np.empty(0, dtype=np.int64)
        if dial is None and self.dials:
            dial = self.dials[0]
        return self._checked(self._decide(images, 0.0 if dial is None else dial), len(images))

    def decide_each(
        self, images: RecordedImages, dials: Sequence[float | None]
    ) -> Iterator[tuple[np.ndarray, RecordedImages]]:
        """:meth:`decide` at each dial, each with a fork of the images that is charged for it.

        Args:
            images: nothing has been asked of them.
            dials: see :meth:`decide`.
        """
        for dial in dials:
            forked = images.fork()
            yield self.decide(forked, dial), forked

    def make_ready(self) -> None:  # noqa: B027, most make all of it for any image
        """Make now what would be made when images first ask for it, so that none has to wait."""

    def _require(self, images: Images) -> None:
        """Raise UserError where the policy cannot decide on the images' portfolio."""
        if not hasattr(self, "portfolio_"):
            raise UserError(f"{self.name} is not fitted: call fit first")
        if [c.id for c in images.portfolio] != list(self.portfolio_):
            raise UserError(f"{self.name} was fitted on another portfolio ({len(self.portfolio_)} configurations)")

    def _checked(self, columns: np.ndarray, count: int) -> np.ndarray:
        """Positions in the portfolio, one an image; raises UserError where they are something else."""
        fits = isinstance(columns, np.ndarray) and columns.shape == (count,) and columns.dtype.kind in "iu"
        if not fits or not 0 <= min(listed := columns.tolist()) <= max(listed) < len(self.portfolio_):
            raise UserError(
                f"{self.name} must give for {count} images an array of as many whole numbers from 0 to "
                f"{len(self.portfolio_) - 1}, positions in the portfolio"
            )
        return columns

    def predict(self, images: Images, dial: float | None = None) -> list[str]:
        """:meth:`decide` as configuration ids."""
        return [self.portfolio_[column] for column in self.decide(images, dial)]

    def asks(self, default: int, layers: int) -> Asks:
        """What the fitted policy may ask of images; everything, unless a policy says that it asks less.

        Args:
            default: column of the network's default.
            layers: dynamic layers of the network.
        """
        return Asks.everything(len(self.portfolio_), layers)

    def point(self, objective: Objective, accuracy: float, macs: float) -> OperatingPoint | None:
        """The operating point that serves an objective best, by the estimates; None for a policy without points.

        Args:
            objective: see :data:`selector.policies.objectives.Objective`.
            accuracy: the default's, on the label split.
            macs: the default's.
        """
        return best(self.points_, objective, OperatingPoint(0.0, accuracy, macs), (self.terms_ or TERMS).tolerance)

    @abstractmethod
    def _fit(self, observed: Observations) -> None: ...

    @abstractmethod
    def _decide(self, images: Images, dial: float) -> np.ndarray: ...

    def _state(self) -> State:
        return State()

    def _restore(self, state: State) -> None:  # noqa: B027, nothing to take over where there is no state
        """Take over what :meth:`_state` gave."""

    def save(self, folder: Path) -> None:
        """Write ``policy.json``, ``fitted_on.parquet`` and, where there is something to put in them,
        ``state.safetensors`` and ``NAME.txt.gz``; no pickle. Of a policy from a file also ``policy.py``, a copy of it.
        ``policy.json`` lists the others with their digests."""
        import pandas as pd

        folder.mkdir(parents=True, exist_ok=True)
        state = self._state()
        keys = pd.DataFrame({"image": sorted(self.fitted_on_)})
        if self.chosen_on_:
            keys[_CHOSEN_ON] = keys["image"].isin(self.chosen_on_)
        encoded = keys.to_parquet(
            index=False, compression="zstd", use_dictionary=False, column_encoding={"image": "DELTA_BYTE_ARRAY"}
        )
        write_whole(folder / _FITTED_ON, encoded)
        if state.arrays:
            write_whole(folder / _STATE, save({k: np.ascontiguousarray(v) for k, v in state.arrays.items()}))
        for name, text in state.texts.items():
            write_whole(folder / f"{name}.txt.gz", gzip.compress(text.encode(), mtime=0))
        if self.source is not None:
            write_whole(folder / SOURCE, self.source)
        own = [] if self.source is None else [SOURCE]
        names = [*own, _FITTED_ON, *([_STATE] if state.arrays else []), *(f"{name}.txt.gz" for name in sorted(state.texts))]
        facts = {
            "policy": self.name,
            **({"class": type(self).__name__} if own else {}),
            "parameters": self.parameters(),
            "network": asdict(self.digests_) | {"portfolio": portfolio_digest(self.portfolio_)},
            "portfolio": self.portfolio_,
            "points": [asdict(point) for point in self.points_],
            "terms": None if self.terms_ is None else asdict(self.terms_),
            "state": state.facts,
            "texts": sorted(state.texts),
            "labels": self.labels_,
            "views": self.views_,
            "promised_on": self.promised_on_,
            "files": {name: digest_of_file(folder / name) for name in names},
        }
        write_record(folder / POLICY, facts)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote. Raises UserError where something is missing or damaged."""
        facts = load_facts(folder)
        digests = Digests.of(facts.get("network"), folder / POLICY)
        try:
            for name, digest in facts["files"].items():
                if name != _FITTED_ON and digest_of_file(folder / name) != digest:
                    raise UserError(f"{folder / name} is damaged: it differs from its digest; fit the policy again")
            policy = cls(**{**cls.earlier, **facts["parameters"]})
            policy.portfolio_ = tuple(facts["portfolio"])
            policy.points_ = tuple(_point_of(point) for point in facts["points"])
            policy.terms_ = Terms(**facts["terms"]) if facts.get("terms") else None
            policy.digests_ = digests
            policy.fitted_on_file = KeysFile(path=folder / _FITTED_ON, digest=facts["files"][_FITTED_ON])
            policy._labels = facts.get("labels")  # earlier versions did not count them
            policy._promised_on, policy.views_ = facts.get("promised_on"), facts.get("views", 1)
            arrays = folder / _STATE
            texts = {name: gzip.decompress((folder / f"{name}.txt.gz").read_bytes()).decode() for name in facts["texts"]}
            policy._restore(State(facts["state"], load_file(arrays) if arrays.exists() else {}, texts))
        except UserError:
            raise
        except Exception as error:  # safetensors, LightGBM, zlib and torch each raise their own
            raise UserError(f"{folder} holds no whole {cls.name} policy ({error}): fit it again") from error
        return policy


def _point_of(facts: Mapping[str, float]) -> OperatingPoint:
    """A saved operating point; what else earlier versions noted of it is left out."""
    return OperatingPoint(**{f.name: facts[f.name] for f in fields(OperatingPoint) if f.name in facts})


def load_facts(folder: Path) -> Mapping[str, Any]:
    """``policy.json`` of a saved policy. Raises UserError where it is missing, damaged or an earlier version's."""
    path = folder / POLICY
    if not path.is_file():
        raise UserError(f"{folder} holds no policy (no {POLICY}): save one with python -m selector.train")
    return read_record(path)


def portfolio_digest(portfolio: Sequence[str]) -> str:
    """Short hash of the configurations that a policy chooses among, in order."""
    return sha256("\n".join(portfolio).encode()).hexdigest()[:16]
