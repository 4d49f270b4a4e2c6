"""Takes the label of an earlier answer: checks id and class, then has the store write it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from serving.errors import Rejection
from serving.inference.deployment import Deployment
from serving.live.store import LabelFixed, Store, in_database
from serving.operation import metrics
from serving.schema import Feedback, FeedbackAnswer
from serving.settings import ServingSettings

_RETRIES = 5
_ID = re.compile(r"[0-9a-f]{20,40}(-\d{1,4})?")


async def take_label(
    deployment: Deployment, store: Store, given: Feedback, settings: ServingSettings, earlier: Sequence[str] = ()
) -> FeedbackAnswer:
    """Store the true class of an earlier answer; it is on disk when this returns.

    Args:
        deployment: that answers now.
        store: the database.
        given: the answer's id, and its true class.
        settings: how long labels may come, and how often they may be changed.
        earlier: keys of deployments of the same classes that answered before it.

    Raises:
        Rejection: no such answer, or not recorded yet; no such class; a label changed too often or too late; the database
            cannot be reached, or there is none.
    """
    index = class_index(deployment.classes, given.label)
    labelled = None
    for _ in range(_RETRIES if _ID.fullmatch(given.id) else 0):
        try:
            limits = settings.label_changes, settings.label_seconds
            labelled = await in_database(store.add_label, given.id, deployment.key, index, *limits, earlier)
        except LabelFixed as fixed:
            raise Rejection("conflict", str(fixed)) from None
        # Another process may still be about to record an answer that it has just given.
        if labelled is not None or not store.late(_moment(given.id)):
            break
        await asyncio.sleep(0.1)
    if labelled is None and _ID.fullmatch(given.id) and store.late(_moment(given.id)):
        raise Rejection("unavailable", f"no answer {given.id!r} is recorded yet: try again", retry_after=1)
    if labelled is None:
        raise Rejection("not_found", f"no answer {given.id!r} in the last {settings.remember_hours:g} hours")
    metrics.LABELS.inc()
    return FeedbackAnswer(id=given.id, label=deployment.classes[index], index=index, right=labelled.predicted == index)


def class_index(classes: Sequence[str], label: str | int) -> int:
    """The class that a label means: a number is an index; text is a class's name or, where there is none, an index.

    Raises:
        Rejection: neither.

    >>> class_index(("cat", "7", "dog"), "7"), class_index(("cat", "7", "dog"), "2")
    (1, 2)
    """
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    digits = str(label)
    if digits.isascii() and digits.isdigit() and int(digits) < len(classes):
        return int(digits)
    few = f"one of {', '.join(classes)}" if len(classes) <= 20 else f"such as {classes[0]!r}"
    raise Rejection("invalid", f"label must be the name of a class ({few}) or an index below {len(classes)}")


def _moment(id_: str) -> float:
    """The moment that a request id, of hexadecimal digits, begins with, seconds since 1970.

    >>> _moment("0190a1b2c3d" + 9 * "0")
    107543735.357
    """
    return int(id_[:11], 16) / 1000
