"""Stores answers, their labels, kept pictures and evaluations, in any database that SQLAlchemy knows."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Engine, make_url

from dynamic.errors import UserError
from serving.errors import Rejection
from serving.live.tables import ANSWERS, EVALUATIONS, IMAGES, LABELS, METADATA
from serving.operation.logs import LOGGER

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StoredAnswer:
    """The answer to one image.

    Attributes:
        id: that its label will name.
        network: the deployment's key.
        policy: the plan's label.
        configuration: id of the one that ran.
        predicted: class; -1 where the network's answer was not finite.
        macs: that were run, the selector's included.
    """

    id: str
    network: str
    policy: str
    configuration: str
    predicted: int
    macs: float


@dataclass(frozen=True, kw_only=True)
class LabelledAnswer:
    """An answer whose label came.

    Attributes:
        id: of the answer.
        policy: label of the plan that answered.
        predicted: class; -1 where the network's answer was not finite.
        macs: that were run, the selector's included.
        label: the true class.
    """

    id: str
    policy: str
    predicted: int
    macs: float
    label: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What every configuration makes of a labelled image.

    Attributes:
        id: of the answer.
        policy: label of the plan that answered.
        policy_right: whether its answer was right.
        policy_macs: that it ran.
        right: by configuration id, whether it is right.
        oracle_macs: of the oracle's choice.
    """

    id: str
    policy: str
    policy_right: bool
    policy_macs: float
    right: dict[str, bool]
    oracle_macs: float


class Store:
    """The database; safe to use from several threads and processes.

    Args:
        url: any SQLAlchemy URL; a SQLite file's folder is made.

    Raises:
        UserError: a URL that is none, a driver that is not installed, a database that cannot be opened.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = check_url(url)
            if parsed.get_backend_name() == "sqlite":
                file = Path(str(parsed.database))
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch(mode=0o600)  # it may hold pictures
            self._engine = sa.create_engine(parsed, pool_pre_ping=True)
            if parsed.get_backend_name() == "sqlite":
                sa.event.listen(self._engine, "connect", _prepare_sqlite)
            self._create()
        except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"SERVING_DATABASE={_masked(url)} cannot be opened: {reason}") from error

    def _create(self) -> None:
        for attempt in range(20):  # several workers start at once
            try:
                METADATA.create_all(self._engine)
                return
            except sa.exc.DBAPIError:
                if attempt == 19:
                    raise
                time.sleep(0.1)

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine, for tests and reports."""
        return self._engine

    def add_answers(
        self, answers: Sequence[StoredAnswer], images: Sequence[tuple[str, bytes]] = (), keep_seconds: float = 0.0
    ) -> None:
        """Remember answers, so that their labels can come, and keep some pictures, as they were sent, by answers' ids."""
        now = time.time()
        kept = {"expires": now + keep_seconds, "claimed_until": 0.0}
        rows = [{"id": id_, "data": data, "size": len(data)} | kept for id_, data in images]
        with self._engine.begin() as connection:
            if answers:
                connection.execute(ANSWERS.insert(), [asdict(answer) | {"created": now} for answer in answers])
            if rows:
                connection.execute(IMAGES.insert(), rows)

    def kept_bytes(self) -> int:
        """Bytes of all kept pictures."""
        with self._engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(IMAGES.c.size), 0))).scalar_one())

    def add_label(self, id_: str, network: str, label: int) -> LabelledAnswer | None:
        """Store the true class of an image that ``network`` answered; a later label replaces an earlier one.

        Returns:
            The answer with its label, on disk by now; None for an id that is unknown, or of another network.
        """
        with self._engine.begin() as connection:
            mine = sa.select(ANSWERS).where(ANSWERS.c.id == id_, ANSWERS.c.network == network)
            found = connection.execute(mine).mappings().first()
            if found is None:
                return None
            values = dict(found) | {"label": label, "created": time.time()}
            # The oracle's choice depends on the label: what was evaluated under another one counts no more. Deleting before
            # reading makes SQLite lock its file: two labels at a time follow each other.
            another = sa.select(LABELS.c.id).where(LABELS.c.id == id_, LABELS.c.label != label)
            connection.execute(EVALUATIONS.delete().where(EVALUATIONS.c.id.in_(another)))
            connection.execute(LABELS.delete().where(LABELS.c.id == id_))
            connection.execute(LABELS.insert(), values)
        return _labelled(found, label)

    def claim(self, network: str, seconds: float) -> tuple[LabelledAnswer, bytes] | None:
        """Claim a labelled picture that nobody else evaluates, so that nobody else will for so many seconds.

        Returns:
            The answer with its label, and the picture as it was sent; None if there is none.
        """
        now = time.time()
        wanted = (
            sa.select(IMAGES.c.id)
            .join(LABELS, LABELS.c.id == IMAGES.c.id)
            .where(IMAGES.c.expires > now, IMAGES.c.claimed_until < now, LABELS.c.network == network)
            .order_by(LABELS.c.created)
            .limit(8)
        )
        with self._engine.connect() as connection:
            candidates = [row.id for row in connection.execute(wanted)]
        for id_ in candidates:
            with self._engine.begin() as connection:
                mine = IMAGES.update().where(IMAGES.c.id == id_, IMAGES.c.claimed_until < now)
                if connection.execute(mine.values(claimed_until=now + seconds)).rowcount == 0:
                    continue
                row = connection.execute(sa.select(LABELS).where(LABELS.c.id == id_)).mappings().one()
                data = connection.execute(sa.select(IMAGES.c.data).where(IMAGES.c.id == id_)).scalar_one()
            return _labelled(row, row["label"]), data
        return None

    def add_evaluation(self, network: str, evaluation: Evaluation, label: int) -> bool:
        """Store the evaluation of an image and delete its picture; false where its label is no longer ``label``."""
        row = asdict(evaluation) | {"right": json.dumps(evaluation.right), "created": time.time(), "network": network}
        with self._engine.begin() as connection:
            # Deleting first locks SQLite's file, and other databases the label's row: it cannot change until this is stored.
            connection.execute(EVALUATIONS.delete().where(EVALUATIONS.c.id == evaluation.id))
            mine = sa.select(LABELS.c.label).where(LABELS.c.id == evaluation.id).with_for_update()
            if connection.execute(mine).scalar() != label:
                connection.execute(IMAGES.update().where(IMAGES.c.id == evaluation.id).values(claimed_until=0.0))
                return False
            connection.execute(EVALUATIONS.insert(), row)
            connection.execute(IMAGES.delete().where(IMAGES.c.id == evaluation.id))
        return True

    def release(self, id_: str) -> None:
        """Let somebody else evaluate a claimed picture."""
        with self._engine.begin() as connection:
            connection.execute(IMAGES.update().where(IMAGES.c.id == id_).values(claimed_until=0.0))

    def drop_image(self, id_: str) -> None:
        """Forget a picture that cannot be evaluated."""
        with self._engine.begin() as connection:
            connection.execute(IMAGES.delete().where(IMAGES.c.id == id_))

    def evaluated_since(self, moment: float) -> int:
        """How many images were evaluated after ``moment`` (seconds since 1970), by all processes."""
        with self._engine.connect() as connection:
            query = sa.select(sa.func.count()).select_from(EVALUATIONS).where(EVALUATIONS.c.created > moment)
            return int(connection.execute(query).scalar_one())

    def counts(self, network: str) -> tuple[int, int]:
        """How many labels and evaluations there are of a network."""
        with self._engine.connect() as connection:
            found = [
                connection.execute(sa.select(sa.func.count()).select_from(t).where(t.c.network == network)).scalar_one()
                for t in (LABELS, EVALUATIONS)
            ]
        return int(found[0]), int(found[1])

    def labels(self, network: str, most: int) -> list[LabelledAnswer]:
        """The latest labels of a network."""
        query = sa.select(LABELS).where(LABELS.c.network == network).order_by(LABELS.c.created.desc()).limit(most)
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [_labelled(row, row["label"]) for row in rows]

    def evaluations(self, network: str, most: int) -> list[Evaluation]:
        """The latest evaluations of a network."""
        query = (
            sa.select(EVALUATIONS).where(EVALUATIONS.c.network == network).order_by(EVALUATIONS.c.created.desc()).limit(most)
        )
        with self._engine.connect() as connection:
            rows: list[dict[str, Any]] = [dict(row) for row in connection.execute(query).mappings()]
        names = ("id", "policy", "policy_right", "policy_macs", "oracle_macs")
        return [Evaluation(right=json.loads(row["right"]), **{name: row[name] for name in names}) for row in rows]

    def forget(self, answers_before: float) -> int:
        """Delete pictures whose time is over, and answers from before a moment; returns the pictures deleted."""
        with self._engine.begin() as connection:
            connection.execute(ANSWERS.delete().where(ANSWERS.c.created < answers_before))
            deleted = connection.execute(IMAGES.delete().where(IMAGES.c.expires < time.time())).rowcount
        self._truncate_log()
        return deleted

    def _truncate_log(self) -> None:
        """SQLite's write-ahead log holds what was deleted until it is truncated."""
        if self._engine.dialect.name == "sqlite":
            with self._engine.connect() as connection:
                connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))

    def close(self) -> None:
        """Release all connections."""
        with suppress(sa.exc.SQLAlchemyError):
            self._truncate_log()
        self._engine.dispose()


def _labelled(row: Mapping[Any, Any], label: int) -> LabelledAnswer:
    """From a row of the answers or labels."""
    return LabelledAnswer(id=row["id"], policy=row["policy"], predicted=row["predicted"], macs=row["macs"], label=label)


async def in_database(work: Callable[..., T], *arguments: Any) -> T:
    """Run what asks the database in a thread. Raises Rejection (unavailable) where the database fails."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except sa.exc.SQLAlchemyError:
        LOGGER.exception("the database failed")
        raise Rejection("unavailable", "the database cannot be reached: try again", retry_after=5) from None


def check_url(url: str) -> sa.URL:
    """Raise UserError where ``url`` is none, its driver is not installed, or it is a SQLite database in memory."""
    try:
        parsed = make_url(url)
        parsed.get_dialect().import_dbapi()
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        raise UserError(f"SERVING_DATABASE={_masked(url)} cannot be used: {str(error).splitlines()[0]}") from error
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UserError(
            f"SERVING_DATABASE={url} must be a file, such as sqlite:///runs/serving.db, since processes share it"
        )
    return parsed


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # Readers do not wait for writers, writers wait for each other; a commit is on disk when it returns.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def _masked(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return url.split("@")[-1]
