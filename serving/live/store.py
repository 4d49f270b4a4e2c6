"""Stores answers, their labels and shadows, kept pictures and evaluations, in SQLite or PostgreSQL."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Engine

from serving.errors import Rejection
from serving.live.database import Database, DatabaseAway, is_away
from serving.live.records import Evaluation, LabelledAnswer, Shadowed, StoredAnswer
from serving.live.tables import ANSWERS, EVALUATIONS, IMAGES, LABELS, NETWORK_LENGTH, SHADOWS
from serving.operation.logs import LOGGER

T = TypeVar("T")

_THREADS = ThreadPoolExecutor(8, "database")
"""Of their own: where a database hangs, labels that wait for it must not keep uploads from the loop's few threads."""


_LATE = 30.0
"""Seconds within which an answer may not be recorded yet."""


class LabelFixed(Exception):  # noqa: N818, the client's wish, not an error of ours
    """A label that may be changed no more; the message says why."""


class Store:
    """What is known of answers; safe to use from several threads and processes.

    Every method raises :class:`~serving.live.database.DatabaseAway` where the database cannot be opened, and
    ``sqlalchemy.exc.SQLAlchemyError`` where it fails later.

    Args:
        url: of SQLite or PostgreSQL; a SQLite file's folder is made.

    Raises:
        UserError: a URL that cannot be used.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine, for tests and reports."""
        return self._database.engine

    def try_to_prepare(self) -> None:
        """Open the database now if it can be; if not, the log says why, and it is tried again when it is next asked."""
        with suppress(DatabaseAway, sa.exc.SQLAlchemyError), self._database.transaction():
            pass

    def prepare(self) -> None:
        """Open the database now. Raises UserError where that is impossible; it says why in a line."""
        self._database.prepare()

    def add_answers(
        self, answers: Sequence[StoredAnswer], images: Sequence[tuple[str, bytes]] = (), keep_seconds: float = 0.0
    ) -> None:
        """Remember answers, so that their labels can come, and keep some pictures, as they were sent, by answers' ids.

        All or none; what is there already stays as it is, so that it may be tried again whatever became of the first time.
        """
        now = time.time()
        kept = {"expires": now + keep_seconds, "claimed_until": 0.0}
        rows = [asdict(answer) | {"network": fitting(answer.network), "created": now} for answer in answers]
        pictures = [{"id": id_, "data": data, "size": len(data)} | kept for id_, data in images]
        with self._database.transaction() as connection:
            if rows:
                connection.execute(self._insert(ANSWERS).on_conflict_do_nothing(), rows)
            if pictures:
                connection.execute(self._insert(IMAGES).on_conflict_do_nothing(), pictures)

    def add_shadows(self, answers: Sequence[StoredAnswer]) -> None:
        """Remember what a shadow policy answered, under the ids of the active one's answers."""
        now = time.time()
        rows = [asdict(answer) | {"network": fitting(answer.network), "created": now} for answer in answers]
        with self._database.transaction() as connection:
            connection.execute(self._insert(SHADOWS).on_conflict_do_nothing(), rows)

    def late(self, moment: float) -> bool:
        """Whether an answer of that moment (seconds since 1970) may still wait to be recorded, here or in another process.

        Those of the last half minute; and for half a minute behind an outage all since shortly before it.
        """
        now, (began, ended) = time.time(), self._database.outage
        return abs(now - moment) < _LATE or (moment > began - _LATE and now < ended + _LATE)

    def kept_bytes(self) -> int:
        """Bytes of all kept pictures."""
        with self._database.transaction() as connection:
            return int(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(IMAGES.c.size), 0))).scalar_one())

    def add_label(
        self,
        id_: str,
        network: str,
        label: int,
        changes: int = 3,
        change_seconds: float = 3600.0,
        others: Sequence[str] = (),
    ) -> LabelledAnswer | None:
        """Store the true class of an image that ``network`` answered; a later label replaces an earlier one.

        Args:
            id_: of the answer.
            network: key of the deployment that answered.
            label: the class.
            changes: how often a label may be replaced by another one.
            change_seconds: how long after the first one that may be.
            others: keys of deployments that may have answered instead.

        Returns:
            The answer with its label, on disk by now; None for an id that is unknown, or of another network.

        Raises:
            LabelFixed: another label, too often or too late.
        """
        now = time.time()
        mine = sa.select(ANSWERS).where(ANSWERS.c.id == id_, ANSWERS.c.network.in_([*map(fitting, (network, *others))]))
        with self._database.transaction() as connection:
            found = connection.execute(mine).mappings().first()
            if found is None:
                return None
            # Writing before reading locks SQLite's file and PostgreSQL's row: labels of one answer follow each other.
            values = dict(found) | {"label": label, "created": now, "first": now, "changes": 0}
            connection.execute(self._insert(LABELS).values(values).on_conflict_do_nothing())
            row = connection.execute(sa.select(LABELS).where(LABELS.c.id == id_).with_for_update()).mappings().one()
            if row["label"] != label:
                if row["changes"] >= changes:
                    raise LabelFixed(f"the label of {id_!r} was changed {changes} times already")
                if now - row["first"] > change_seconds:
                    raise LabelFixed(f"the label of {id_!r} came more than {change_seconds:g} s ago and stays")
                changed = {"label": label, "created": now, "changes": row["changes"] + 1}
                connection.execute(LABELS.update().where(LABELS.c.id == id_).values(changed))
                # The oracle's choice depends on the label: what was evaluated under another one counts no more.
                connection.execute(EVALUATIONS.delete().where(EVALUATIONS.c.id == id_))
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
            .where(IMAGES.c.expires > now, IMAGES.c.claimed_until < now, LABELS.c.network == fitting(network))
            .order_by(LABELS.c.created)
            .limit(8)
        )
        with self._database.transaction() as connection:
            candidates = [row.id for row in connection.execute(wanted)]
        for id_ in candidates:
            with self._database.transaction() as connection:
                mine = IMAGES.update().where(IMAGES.c.id == id_, IMAGES.c.claimed_until < now)
                if connection.execute(mine.values(claimed_until=now + seconds)).rowcount == 0:
                    continue
                row = connection.execute(sa.select(LABELS).where(LABELS.c.id == id_)).mappings().first()
                data = connection.execute(sa.select(IMAGES.c.data).where(IMAGES.c.id == id_)).scalar_one()
            if row is not None:
                return _labelled(row, row["label"]), data
        return None

    def add_evaluation(self, network: str, evaluation: Evaluation, label: int) -> bool:
        """Store the evaluation of an image and delete its picture; false where its label is no longer ``label``."""
        row = asdict(evaluation) | {
            "right": json.dumps(evaluation.right),
            "created": time.time(),
            "network": fitting(network),
        }
        with self._database.transaction() as connection:
            # A write that changes nothing locks SQLite's file and PostgreSQL's row: the label stays until this is stored.
            connection.execute(LABELS.update().where(LABELS.c.id == evaluation.id).values(label=LABELS.c.label))
            if connection.execute(sa.select(LABELS.c.label).where(LABELS.c.id == evaluation.id)).scalar() != label:
                connection.execute(IMAGES.update().where(IMAGES.c.id == evaluation.id).values(claimed_until=0.0))
                return False
            anew = self._insert(EVALUATIONS).values(row)
            connection.execute(anew.on_conflict_do_update(index_elements=[EVALUATIONS.c.id], set_=row))
            connection.execute(IMAGES.delete().where(IMAGES.c.id == evaluation.id))
        return True

    def release(self, id_: str) -> None:
        """Let somebody else evaluate a claimed picture."""
        with self._database.transaction() as connection:
            connection.execute(IMAGES.update().where(IMAGES.c.id == id_).values(claimed_until=0.0))

    def drop_image(self, id_: str) -> None:
        """Forget a picture that cannot be evaluated."""
        with self._database.transaction() as connection:
            connection.execute(IMAGES.delete().where(IMAGES.c.id == id_))

    def evaluated_since(self, moment: float) -> int:
        """How many images were evaluated after ``moment`` (seconds since 1970), by all processes."""
        with self._database.transaction() as connection:
            query = sa.select(sa.func.count()).select_from(EVALUATIONS).where(EVALUATIONS.c.created > moment)
            return int(connection.execute(query).scalar_one())

    def counts(self, network: str) -> tuple[int, int]:
        """How many labels and evaluations there are of a network."""
        name = fitting(network)
        with self._database.transaction() as connection:
            found = [
                connection.execute(sa.select(sa.func.count()).select_from(t).where(t.c.network == name)).scalar_one()
                for t in (LABELS, EVALUATIONS)
            ]
        return int(found[0]), int(found[1])

    def labels(self, network: str, most: int) -> list[LabelledAnswer]:
        """The latest labels of a network."""
        query = sa.select(LABELS).where(LABELS.c.network == fitting(network)).order_by(LABELS.c.created.desc()).limit(most)
        with self._database.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [_labelled(row, row["label"]) for row in rows]

    def shadowed(self, network: str, most: int, labelled: bool) -> list[Shadowed]:
        """The latest images of a network that were answered twice; if ``labelled``, only those whose label came, with it."""
        known = LABELS if labelled else ANSWERS
        columns = [
            known.c.policy,
            SHADOWS.c.policy.label("shadow"),
            known.c.predicted,
            SHADOWS.c.predicted.label("shadow_predicted"),
            known.c.macs,
            SHADOWS.c.macs.label("shadow_macs"),
            LABELS.c.label if labelled else sa.null().label("label"),
        ]
        query = sa.select(*columns).join(SHADOWS, SHADOWS.c.id == known.c.id).where(SHADOWS.c.network == fitting(network))
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(SHADOWS.c.created.desc()).limit(most)).mappings().all()
        return [Shadowed(**row) for row in rows]

    def evaluations(self, network: str, most: int) -> list[Evaluation]:
        """The latest evaluations of a network."""
        mine = sa.select(EVALUATIONS).where(EVALUATIONS.c.network == fitting(network))
        with self._database.transaction() as connection:
            latest = connection.execute(mine.order_by(EVALUATIONS.c.created.desc()).limit(most))
            rows: list[dict[str, Any]] = [dict(row) for row in latest.mappings()]
        names = ("id", "policy", "policy_right", "policy_macs", "oracle_macs")
        return [Evaluation(right=json.loads(row["right"]), **{name: row[name] for name in names}) for row in rows]

    def forget(self, answers_before: float, labels_before: float = 0.0, most_rows: int = 10**9) -> tuple[int, int]:
        """Delete what is too old or too much: pictures whose time is over, old answers, labels and evaluations.

        Args:
            answers_before: moment before which answers go, and their shadows; of labelled ones label and shadow stay.
            labels_before: moment before which these go, and evaluations.
            most_rows: of answers, labels, shadows and evaluations each; the oldest go first.

        Returns:
            How many pictures, and how many other rows were deleted.
        """
        with self._database.transaction() as connection:
            pictures = connection.execute(IMAGES.delete().where(IMAGES.c.expires < time.time())).rowcount
            rows = 0
            unlabelled = SHADOWS.c.id.not_in(sa.select(LABELS.c.id))
            rows += connection.execute(SHADOWS.delete().where(SHADOWS.c.created < answers_before, unlabelled)).rowcount
            moments = {ANSWERS: answers_before, LABELS: labels_before, SHADOWS: labels_before, EVALUATIONS: labels_before}
            for table, moment in moments.items():
                newest = sa.select(table.c.created).order_by(table.c.created.desc()).offset(most_rows).limit(1)
                last = connection.execute(newest).scalar()
                old = table.c.created < moment if last is None else table.c.created <= max(last, moment)
                rows += connection.execute(table.delete().where(old)).rowcount
        self._database.truncate_log()
        return pictures, rows

    def close(self) -> None:
        """Release all connections."""
        self._database.close()

    def _insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An insert that knows what to do about rows that are there."""
        return sqlite.insert(table) if self.engine.dialect.name == "sqlite" else postgresql.insert(table)


def fitting(network: str) -> str:
    """A network's name as it is stored: one that is too long ends in a digest of the whole.

    >>> fitting("matched 0123"), len(fitting("x" * 500))
    ('matched 0123', 200)
    """
    if len(network) <= NETWORK_LENGTH:
        return network
    return f"{network[: NETWORK_LENGTH - 33]} {hashlib.sha256(network.encode()).hexdigest()[:32]}"


def _labelled(row: Mapping[Any, Any], label: int) -> LabelledAnswer:
    """From a row of the answers or labels."""
    return LabelledAnswer(id=row["id"], policy=row["policy"], predicted=row["predicted"], macs=row["macs"], label=label)


async def in_database(work: Callable[..., T], *arguments: Any) -> T:
    """Run what asks the database in a thread. Raises Rejection (unavailable) where the database fails."""
    try:
        return await asyncio.get_running_loop().run_in_executor(_THREADS, work, *arguments)
    except (sa.exc.SQLAlchemyError, DatabaseAway) as error:
        if not is_away(error):  # of those that are, the log has had its line
            LOGGER.exception("the database refused")
        raise Rejection("unavailable", "the database cannot be reached: try again", retry_after=5) from None
