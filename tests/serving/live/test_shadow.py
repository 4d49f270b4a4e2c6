from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from serving.inference.deployment import Deployment
from serving.inference.engine import answer
from serving.inference.plans import Plan
from serving.live import shadow
from serving.live.no_store import NoStore
from serving.live.records import StoredAnswer


class Kept(NoStore):
    def __init__(self) -> None:
        self.rows = list[StoredAnswer]()

    def add_shadows(self, answers: Sequence[StoredAnswer]) -> None:
        self.rows += answers


def test_it_waits_while_there_is_live_work_and_sheds_what_it_has_no_time_for(
    deployment: Deployment, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, idle, store = Counter[str](), threading.Event(), Kept()
    monkeypatch.setattr(shadow.Shadow, "_count", lambda self, outcome, images=1: counted.update({outcome: images}))
    monkeypatch.setattr(shadow, "_PATIENCE", 0.2)
    plan = Plan(policy="default")
    (active,) = answer(deployment, images[:1], [deployment.active])
    running = shadow.Shadow(deployment, plan, 1.0, store, idle.is_set)
    try:
        for number in range(200):
            running.offer(f"busy-{number}", images[0], active, deployment.active)
        assert counted["shed"] >= 200 - 64 - 8, "more than may wait"
        while sum(counted.values()) < 200:
            threading.Event().wait(0.05)
        assert counted == {"shed": 200}
        idle.set()
        running.offer("other", images[0], active, Plan(policy="cheapest"))
        for number in range(20):
            running.offer(f"idle-{number}", images[number], active, deployment.active)
        while counted["answered"] < 20:
            threading.Event().wait(0.05)
    finally:
        running.close()
    assert {row.id for row in store.rows} == {f"idle-{number}" for number in range(20)}
    expected = answer(deployment, images[:20], [plan] * 20)
    assert [row.predicted for row in sorted(store.rows, key=lambda row: int(row.id[5:]))] == [e.predicted for e in expected]
