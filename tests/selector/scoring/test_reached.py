from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from dynamic.errors import UserError
from dynamic.integrity import write_record
from oracle.run_folder import RunFolder
from selector.policies import digest_of_policies
from selector.scoring.reached import Reached, read_reached, record_of
from selector.shipped import SHIPPED


def counted(stream: np.random.Generator, count: int) -> tuple[Reached, np.ndarray, np.ndarray]:
    macs = stream.choice([10.0, 25.5, 60.25], count, p=[0.6, 0.3, 0.1])
    confidence = stream.uniform(0.2, 1, count).astype(np.float16).astype(np.float32)
    return Reached.of("cascade", 0.5, macs, confidence), macs, confidence


def test_cells_are_what_a_slow_count_finds() -> None:
    reached, macs, confidence = counted(np.random.default_rng(0), 1500)
    assert reached.levels.tolist() == [0] * 4 + [1] * 4 + [2]  # 150 images at the dearest level: too few to part
    found = [0] * len(reached.counts)
    for level, value in enumerate((10.0, 25.5, 60.25)):
        for sure in confidence[macs == value]:
            found[
                int(np.flatnonzero(reached.levels == level)[0]) + sum(cut <= sure for cut in reached.confidences[level])
            ] += 1
    assert found == list(reached.counts)
    assert sum(reached.counts) == 1500
    assert min(reached.counts) >= 50


def test_a_live_image_falls_into_the_cell_of_the_recorded_one() -> None:
    """Live confidence is not rounded, and sums of MACs differ in their last bits."""
    reached, macs, confidence = counted(np.random.default_rng(0), 1500)
    for m, c in zip(macs[:200], confidence[:200], strict=True):
        assert reached.cell(m * (1 + 1e-12), float(c) * (1 + 1e-5)) == reached.cell(m, float(c))


def test_many_costs_make_few_levels() -> None:
    stream = np.random.default_rng(0)
    reached = Reached.of("head", 0.0, stream.uniform(1e7, 5e7, 4000), stream.uniform(size=4000))
    assert len(reached.confidences) == 8
    assert min(reached.counts) >= 50


def test_the_shipped_runs_say_what_their_policies_reach() -> None:
    for name, folder in SHIPPED.items():
        found = read_reached(RunFolder.open(folder))
        assert {"default", "cascade", "stagewise"} <= {policy for policy, _ in found}, name
        assert all(sum(reached.counts) == 10_000 for reached in found.values())
        benchmark = json.loads(RunFolder(folder).results.read_text())["policies"]
        rows = {(row["policy"], row["dial"] if row["objective"] else None): row for row in benchmark}
        for key, reached in found.items():
            assert reached.mean_macs / 1e9 == pytest.approx(rows[key]["gmacs"]), (name, key)


def test_counts_of_other_policies_are_refused(tmp_path: Path) -> None:
    run = RunFolder.open(SHIPPED["matched"])
    run.reached = tmp_path / "reached.json"
    with pytest.raises(UserError, match=r"nobody counted.*selector.benchmark"):
        read_reached(run)
    reached, _, _ = counted(np.random.default_rng(0), 300)
    write_record(run.reached, record_of([reached], "another digest"))
    with pytest.raises(UserError, match="fitted again"):
        read_reached(run)
    write_record(
        run.reached, {"policies_digest": digest_of_policies(run.policies), "reached": [asdict(reached) | {"counts": [1]}]}
    )
    with pytest.raises(UserError, match="another version's"):
        read_reached(run)
