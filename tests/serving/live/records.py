from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import select

from serving.live.records import Evaluation, LabelledAnswer, StoredAnswer
from serving.live.store import Store
from serving.live.tables import IMAGES


def stored(id_: str, predicted: int = 3, network: str = "n") -> StoredAnswer:
    return StoredAnswer(id=id_, network=network, policy="cascade", configuration="c", predicted=predicted, macs=1e7)


def kept(store: Store) -> list[str]:
    with store.engine.connect() as connection:
        return [row.id for row in connection.execute(select(IMAGES.c.id))]


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def labelled(predicted: int, label: int) -> LabelledAnswer:
    return LabelledAnswer(id="a", policy="cascade", predicted=predicted, macs=1e7, label=label)


def evaluation(id_: str, policy_right: bool, right: dict[str, bool]) -> Evaluation:
    return Evaluation(id=id_, policy="cascade", policy_right=policy_right, policy_macs=1e7, right=right, oracle_macs=1e7)
