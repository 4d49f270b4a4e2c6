"""SERVING_DATABASE=none: nothing is stored, and whoever brings a label is told so."""

from __future__ import annotations

from collections.abc import Sequence

from serving.errors import Rejection
from serving.live.database import NONE
from serving.live.records import Evaluation, LabelledAnswer, Shadowed, StoredAnswer
from serving.live.store import Store
from serving.operation import metrics


class NoStore(Store):
    """A store that keeps nothing."""

    def __init__(self) -> None:
        metrics.DATABASE_UP.set(1)  # nothing is missing

    def try_to_prepare(self) -> None:
        """Nothing to open."""

    def add_answers(
        self, answers: Sequence[StoredAnswer], images: Sequence[tuple[str, bytes]] = (), keep_seconds: float = 0.0
    ) -> None:
        """Forget them."""

    def add_shadows(self, answers: Sequence[StoredAnswer]) -> None:
        """Forget them."""

    def kept_bytes(self) -> int:
        """None."""
        return 0

    def add_label(
        self,
        id_: str,
        network: str,
        label: int,
        changes: int = 0,
        change_seconds: float = 0.0,
        others: Sequence[str] = (),
    ) -> LabelledAnswer | None:
        """Refuse it. Raises Rejection."""
        raise Rejection("unavailable", f"this server takes no labels (SERVING_DATABASE={NONE})")

    def claim(self, network: str, seconds: float) -> tuple[LabelledAnswer, bytes] | None:
        """Nothing to evaluate."""
        return None

    def evaluated_since(self, moment: float) -> int:
        """None."""
        return 0

    def counts(self, network: str) -> tuple[int, int]:
        """No labels, no evaluations."""
        return 0, 0

    def labels(self, network: str, most: int) -> list[LabelledAnswer]:
        """None."""
        return []

    def shadowed(self, network: str, most: int, labelled: bool) -> list[Shadowed]:
        """None."""
        return []

    def evaluations(self, network: str, most: int) -> list[Evaluation]:
        """None."""
        return []

    def forget(self, answers_before: float, labels_before: float = 0.0, most_rows: int = 0) -> tuple[int, int]:
        """Nothing to delete."""
        return 0, 0

    def close(self) -> None:
        """Nothing to release."""


def open_store(url: str) -> Store:
    """The store at a URL, or one that keeps nothing for ``none``.

    A database that is away at the moment is no reason not to serve: the log says so, and it is tried again.

    Raises:
        UserError: a URL that cannot be used.
    """
    store = NoStore() if url == NONE else Store(url)
    store.try_to_prepare()
    return store
