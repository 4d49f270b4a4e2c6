"""What works on some images at a time says what the whole in memory said; the old ways stand here as the reference."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamic.errors import UserError
from dynamic.integrity import write_arrays
from selector.learning.fitting import calibrate
from selector.observation import observations as observations_module
from selector.observation.images import RecordedImages
from selector.observation.observations import Observations
from selector.observation.stored import Blocks, StoredArray, read_blocks
from selector.policies import LEARNED, answers, cascade, running
from selector.policies.answers import fit_temperatures, tempered
from selector.policies.base import Policy
from selector.policies.boosting import Ranker, boosted, boosted_each
from selector.policies.cascade import Averaging, Cascade
from selector.policies.forest import Forest
from selector.policies.gathering import gather, gather_recorded
from selector.policies.head import _channel_statistics
from selector.policies.running import PolicyRun, PolicyRuns, run_policy, run_recorded
from selector.policies.stagewise import Stagewise
from selector.scoring.resampling import draw_resamples

Pair = tuple[Observations, Observations]
GROUPS = ("image", "stem", "prefix", "grid", "probabilities")
IMAGES = 300
BLOCK = 64


@pytest.fixture(scope="module")
def kept(noise: Pair, ruled: Pair, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The same observations on disk, and in memory."""
    folder = tmp_path_factory.mktemp("blocks")
    stream = np.random.default_rng(0)
    whole = ruled[0].rows(stream.permutation(len(ruled[0]))[:IMAGES])
    files = []
    for start in range(0, IMAGES, BLOCK):
        part = whole.rows(slice(start, start + BLOCK))
        arrays = {name: getattr(part, name).astype(np.float16) for name in GROUPS}
        arrays |= {name: values.astype(np.float16) for name, values in part.stage_values.items()}
        files.append(folder / f"{start}.safetensors")
        write_arrays(files[-1], arrays | {"readable": np.ones(len(part), bool)})
    blocks, found = Blocks(tuple(files), BLOCK), []
    for in_memory in (0, 2**30):
        values: dict[str, Any] = read_blocks(blocks, GROUPS, in_memory)
        stages = {name: values[name] for name in whole.stage_values}
        found.append(replace(whole, **{name: values[name] for name in GROUPS}, stage_values=stages))
    assert all(isinstance(getattr(found[0], name), StoredArray) for name in GROUPS)
    assert all(isinstance(getattr(found[1], name), np.ndarray) for name in GROUPS)
    return found[0], found[1]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observations_module, "TOGETHER", 70)
    monkeypatch.setattr(answers, "ROWS", 50)
    monkeypatch.setattr(cascade, "ROWS", 50)


def test_what_is_on_disk_is_read_as_if_it_were_in_memory(kept: Pair) -> None:
    stored, held = kept
    stream = np.random.default_rng(1)
    mask, some = stream.random(IMAGES) < 0.3, stream.integers(IMAGES, size=40)
    columns = [2, 0]
    for name in GROUPS:
        here, there = getattr(held, name), getattr(stored, name)
        assert there.shape == here.shape
        assert there.nbytes == here.nbytes
        for rows in (slice(3, 90), mask, some, np.empty(0, int)):
            assert np.array_equal(there[rows], here[rows])
            assert np.array_equal(np.asarray(there.taken(rows)), here[rows])
            assert np.array_equal(there[rows, 1], here[rows, 1])
        assert np.array_equal(there.taken(mask).among(columns)[3:9], here[mask][:, columns][3:9])
        assert np.array_equal(there.among(columns)[some, 0], here[:, columns][some, 0])
    with pytest.raises(IndexError, match="on disk"):
        stored.probabilities[3]


def test_small_arrays_are_read_and_large_ones_stay(kept: Pair) -> None:
    probabilities = kept[0].probabilities
    assert isinstance(probabilities, StoredArray)
    sizes = {name: values[:1].nbytes for name, values in read_blocks(probabilities.blocks, GROUPS, 2**30).items()}
    largest = max(sizes, key=sizes.__getitem__)
    limit = 5 * BLOCK * (sum(sizes.values()) - sizes[largest])  # the last block is counted as a whole one
    for less, stay in ((0, {largest}), (1, set(sorted(sizes, key=sizes.__getitem__)[-2:]))):
        found = read_blocks(probabilities.blocks, GROUPS, limit - less)
        assert {name for name, values in found.items() if isinstance(values, StoredArray)} == stay


def test_a_damaged_block_is_told_before_anything_is_read_of_it(kept: Pair, tmp_path: Path) -> None:
    probabilities = kept[0].probabilities
    assert isinstance(probabilities, StoredArray)
    files = [tmp_path / path.name for path in probabilities.blocks.files]
    for copy, path in zip(files, probabilities.blocks.files, strict=True):
        copy.write_bytes(path.read_bytes())
    content = bytearray(files[2].read_bytes())
    content[-5] ^= 1
    files[2].write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read_blocks(Blocks(tuple(files), BLOCK), GROUPS, 0)


@pytest.mark.parametrize("kind", LEARNED, ids=lambda kind: kind.name)
def test_policies_learn_and_decide_alike_from_disk_and_from_memory(kept: Pair, kind: type[Policy]) -> None:
    stored, held = kept
    from_disk, from_memory = kind().fit(stored), kind().fit(held)
    mine, theirs = from_disk._state(), from_memory._state()
    assert (mine.facts, mine.texts) == (theirs.facts, theirs.texts)
    assert mine.arrays.keys() == theirs.arrays.keys()
    assert all(np.array_equal(mine.arrays[name], theirs.arrays[name]) for name in mine.arrays)
    dials: list[float | None] = [*from_disk.dials][:: max(len(from_disk.dials) // 4, 1)] or [None]
    for dial, found in zip(dials, run_recorded(from_disk, stored, dials), strict=True):
        whole = run_policy(from_memory, RecordedImages(held), dial)
        assert np.array_equal(found.columns, whole.columns)
        assert np.array_equal(found.predicted, whole.predicted)
        assert np.array_equal(found.macs, whole.macs)


def test_a_policy_is_run_once_at_each_setting(kept: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    held = kept[1]
    first, second = Cascade().fit(held), Cascade().fit(held)
    asked: list[tuple[Policy, Sequence[float | None]]] = []

    def watched(policy: Policy, observed: Observations, dials: Sequence[float | None]) -> list[PolicyRun]:
        asked.append((policy, dials))
        return run_recorded(policy, observed, dials)

    monkeypatch.setattr(running, "run_recorded", watched)
    runs = PolicyRuns(held)
    for policy in (first, second, first):
        wanted = [policy.dials[3], policy.dials[0]]
        for dial, found in zip(wanted, runs.at(policy, wanted), strict=True):
            alone = run_policy(policy, RecordedImages(held), dial)
            assert np.array_equal(found.columns, alone.columns)
            assert np.array_equal(found.macs, alone.macs)
    (beside,) = runs.at(first, [0.123])
    assert np.array_equal(beside.macs, run_policy(first, RecordedImages(held), 0.123).macs)
    assert [policy for policy, _ in asked] == [first, second, first]
    assert [set(dials) for _, dials in asked] == [set(first.dials), set(second.dials), {0.123}]


def test_operating_points_are_the_same(kept: Pair) -> None:
    stored, held = kept
    assert calibrate(Cascade(), stored).points_ == calibrate(Cascade(), held).points_


def test_an_empty_batch_has_no_outcome(kept: Pair) -> None:
    stored, held = kept
    (found,) = run_recorded(Cascade().fit(held), stored.rows(slice(0, 0)))
    assert len(found.columns) == len(found.predicted) == len(found.macs) == 0


def test_gathered_features_are_those_of_all_images_at_once(kept: Pair) -> None:
    groups = ("image", "prefix", "answer:default")
    assert np.array_equal(gather_recorded(kept[0], groups), gather(RecordedImages(kept[1]), groups))


def test_channel_statistics_are_those_of_the_whole_array(kept: Pair) -> None:
    mean, deviation = _channel_statistics(kept[0])
    grid = np.asarray(kept[1].grid, np.float64)
    np.testing.assert_allclose(mean, grid.mean(axis=(0, 2, 3)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(deviation, grid.std(axis=(0, 2, 3)), rtol=1e-5)


def test_temperatures_are_those_of_trying_every_one(kept: Pair, noise: Pair) -> None:
    for observed in (kept[0], noise[0]):
        assert np.array_equal(fit_temperatures(observed), _temperatures(observed))


def _temperatures(observed: Observations) -> np.ndarray:
    tried = np.geomspace(0.5, 4, 25)
    logs = np.log(np.clip(np.asarray(observed.probabilities), 1e-6, 1))

    def loss(logits: np.ndarray) -> np.ndarray:
        peak = logits.max(axis=2, keepdims=True)
        normaliser = np.log(np.exp(logits - peak).sum(axis=2)) + peak[:, :, 0]
        true = np.take_along_axis(logits, observed.labels[:, None, None], axis=2)[:, :, 0]
        return np.asarray((normaliser - true).mean(axis=0))

    return tried[np.array([loss(logs / each) for each in tried]).argmin(axis=0)].astype(np.float32)


def test_the_average_is_chosen_as_with_all_answers_at_hand(kept: Pair, noise: Pair) -> None:
    for observed in (kept[0], noise[0]):
        all_ = tempered(np.asarray(observed.probabilities), fit_temperatures(observed)[:, None])
        order: list[int] = []
        for _ in observed.portfolio:
            rest = [column for column in range(len(observed.portfolio)) if column not in order]
            together = [all_[:, [*order, column]].mean(axis=1).argmax(axis=1) == observed.labels for column in rest]
            order.append(rest[int(np.argmax([right.mean() for right in together]))])
        assert Averaging().fit(observed).order_ == order


def test_ladders_are_those_of_all_answers_at_hand(kept: Pair, noise: Pair) -> None:
    for observed in (kept[0], noise[0]):
        policy = Cascade()
        all_ = tempered(np.asarray(observed.probabilities), fit_temperatures(observed)[:, None])
        found = []
        for count in range(1, policy.rungs + 1):
            for ladder in itertools.permutations(policy._near_hull(observed), count):
                if (np.diff(observed.costs.whole[list(ladder)]) > 0).all():
                    found += _ladder(all_, observed, ladder)
        assert policy.fit(observed).steps_ == cascade._best_steps(found)


def _ladder(all_: np.ndarray, observed: Observations, ladder: tuple[int, ...]) -> list[cascade._Step]:
    costs = observed.costs
    means = [cascade._blended(all_[:, list(ladder[: rung + 1])]) for rung in range(len(ladder))]
    right = [mean.argmax(axis=1) == observed.labels for mean in means]
    sure = [mean.max(axis=1) for mean in means[:-1]]
    paid = [float(costs.paths[list(ladder[: rung + 1])].any(axis=0) @ costs.macs) for rung in range(len(ladder))]
    tried = []
    for thresholds in itertools.product(*[np.quantile(confidence, cascade.SHARES) for confidence in sure]):
        reached = np.ones(len(observed), dtype=bool)
        hits, macs = right[0].astype(bool), np.full(len(observed), paid[0])
        for rung, threshold in enumerate(thresholds):
            reached &= sure[rung] < threshold
            hits = np.where(reached, right[rung + 1], hits)
            macs[reached] = paid[rung + 1]
        tried.append(
            cascade._Step(float(macs.mean()), float(hits.mean()), list(map(int, ladder)), list(map(float, thresholds)))
        )
    return tried


def test_trees_of_several_targets_are_those_of_each_alone() -> None:
    stream = np.random.default_rng(0)
    features = stream.normal(size=(400, 12)).astype(np.float32)
    targets = features[:, :3] + stream.normal(size=(400, 3)) > 0
    together = list(boosted_each(features, targets.T, 10, 0, objective="binary"))
    assert together == [boosted(features, target, 10, 0, objective="binary") for target in targets.T]
    assert len(set(together)) == 3


def test_resamples_are_those_of_one_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selector.scoring.resampling._BLOCK", 900)
    expected = np.random.default_rng(3).multinomial(200, np.full(200, 1 / 200), size=50)
    assert np.array_equal(draw_resamples(200, 3, 50), expected)


def test_forks_learn_what_each_price_and_branch_alone_would(kept: Pair) -> None:
    stored, held = kept
    policy = Stagewise(rounds=5).fit(stored)
    half = np.random.default_rng(policy.seed).permutation(len(held)) % 2
    images = RecordedImages(held)
    relative = held.costs.whole / held.costs.default
    texts: dict[str, str] = {}

    def learn(node: Any, rewards: np.ndarray, name: str) -> np.ndarray:
        if not node.branches:
            return np.asarray(rewards[:, node.column])
        below = np.stack([learn(b, rewards, f"{name}_{i}") for i, b in enumerate(node.branches)], axis=1)
        if len(node.branches) == 1:
            return np.asarray(below[:, 0])
        features = images.stage(node.layer, node.column, np.arange(len(images)))
        crossed = np.empty_like(below)
        for branch in range(len(node.branches)):
            for part in (0, 1):
                model = boosted(features[half != part], below[half != part, branch], policy.rounds, policy.seed)
                crossed[half == part, branch] = Forest((model,)).raw(features[half == part])[:, 0]
            texts[f"m{name}_{branch}"] = boosted(features, below[:, branch], policy.rounds, policy.seed)
        return np.asarray(below[np.arange(len(below)), crossed.argmax(axis=1)])

    for number, price in enumerate(policy.prices):
        learn(policy.tree_, held.correct - price * relative, str(number))
    found = policy._state().texts
    assert found.keys() == texts.keys()
    stages = {name: np.asarray(held.stage_values[name]) for name in held.stage_values}
    shared = 0
    for name in texts:
        shared += found[name] != texts[name]
        if name.startswith("m0"):
            assert found[name] == texts[name]
        fork = _fork(policy.tree_, [int(part) for part in name.split("_")[1:-1]])
        features = stages[held.stages[fork.layer][fork.column]]
        learned, alone = (Forest((text,)).raw(features) for text in (found[name], texts[name]))
        np.testing.assert_allclose(learned, alone, atol=1e-6)  # the targets of a branch at its end differ by a constant
    assert shared


def _fork(node: Any, branches: list[int]) -> Any:
    return _fork(node.branches[branches[0]], branches[1:]) if branches else node


def test_the_ranker_learns_from_every_image_with_every_column(kept: Pair) -> None:
    stored, held = kept
    features, (images, columns) = gather(RecordedImages(held), Ranker().groups), held.correct.shape
    every = np.tile(np.arange(columns, dtype=np.float32), images)[:, None]
    relevance = np.where(held.correct, 2 + (held.quality > 1.8), 0) + (held.quality > 0.3)
    model = boosted(
        np.concatenate([np.repeat(features, columns, axis=0), every], axis=1),
        relevance.ravel().astype(int),
        10,
        0,
        objective="lambdarank",
        group=np.full(images, columns),
        categories=[features.shape[1]],
        lambdarank_truncation_level=columns,
        feature_fraction=0.5,
    )
    assert Ranker(rounds=10).fit(stored)._state().texts == {"model": model}
