from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamic import UserError
from dynamic.compiled.plan import Tree
from dynamic.compiled.session import CompiledSession
from dynamic.session import Session
from tests.dynamic.compiled.networks import FAMILIES, LOOKS, Compiled, family, images

COUNT = 5


def close(made: np.ndarray, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(made, expected.numpy(), rtol=1e-4, atol=1e-4)


def ask(both: Compiled, eager: Session, compiled: CompiledSession, question: str, which: int, rows: np.ndarray) -> None:
    """One question to both sessions; same answers, same charge."""
    configuration = both.configurations[which % len(both.configurations)]
    if question == "logits":
        close(compiled.logits(configuration, rows), eager.logits(configuration, rows))
    elif question == "mixed":
        chosen = [both.configurations[(which + 3 * row) % len(both.configurations)] for row in range(COUNT)]
        close(compiled.mixed(chosen), eager.mixed(chosen))
    else:
        look = both.needs.looks[which % len(both.needs.looks)]
        expected = LOOKS[look.kind](eager.before(look.layer, look.configuration, rows))
        close(compiled.look(look.kind, look.layer, look.configuration, rows), expected)
    assert (compiled.macs == eager.macs).all()


QUESTION = st.tuples(
    st.sampled_from(["logits", "logits", "look", "look", "mixed"]),
    st.integers(0, 20),
    st.lists(st.integers(0, COUNT - 1), max_size=6),
)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(questions=st.lists(QUESTION, min_size=1, max_size=6))
@torch.inference_mode()
def test_equals_the_eager_session_whatever_is_asked(name: str, questions: list[tuple[str, int, list[int]]]) -> None:
    both = family(name)
    batch = images(both.compiled, COUNT)
    eager, compiled = Session(both.eager, torch.from_numpy(batch)), CompiledSession(both.compiled, batch)
    for question, which, rows in questions:
        ask(both, eager, compiled, question, which, np.array(rows, dtype=np.int64))


class _Counting:
    """Stands for an opened network, and notes what is run on how many images."""

    def __init__(self, both: Compiled) -> None:
        self._compiled, self.ran = both.compiled, []

    def __getattr__(self, name: str) -> object:
        return getattr(self._compiled, name)

    def run_all(self, jobs):
        self.ran += [(graph.start, graph.end, graph.emits, len(next(iter(inputs.values())))) for graph, inputs in jobs]
        return self._compiled.run_all(jobs)


@pytest.mark.parametrize("name", ["residual", "dense"])
def test_nothing_is_run_twice_and_nothing_is_cut_without_need(name: str) -> None:
    both = family(name)
    first, second, third = both.needs.ladders[0]
    leaf = {c: both.compiled.path(c)[-1] for c in (first, second, third)}
    counting = _Counting(both)
    session = CompiledSession(counting, images(both.compiled, COUNT))  # type: ignore[arg-type]
    session.logits(first, np.arange(COUNT))
    session.logits(second, np.array([1, 3, 4]))
    session.logits(third, np.array([4]))
    session.logits(third, np.array([4]))
    session.mixed([first, second, first, second, third])
    tree = Tree(both.compiled.record.paths)
    forks = [tree.meet(leaf[second], leaf[first]), max(tree.meet(leaf[third], leaf[other]) for other in (first, second))]
    assert [run[:2] + run[3:] for run in counting.ran] == [
        (None, leaf[first], COUNT),
        (forks[0], leaf[second], 3),
        (forks[1], leaf[third], 1),
    ]
    counting.ran.clear()
    CompiledSession(counting, images(both.compiled, 2)).mixed([first, second])  # type: ignore[arg-type]
    assert counting.ran == [(None, leaf[first], False, 1), (None, leaf[second], False, 1)]  # whole, nothing emitted


def test_a_deep_look_gives_the_shallow_one() -> None:
    both = family("residual")
    counting = _Counting(both)
    session = CompiledSession(counting, images(both.compiled, COUNT))  # type: ignore[arg-type]
    for layer in (1, 0):
        session.look("pooled", layer, both.configurations[0], np.arange(COUNT))
    session.mixed([both.configurations[0]] * COUNT)
    assert len(counting.ran) == 2


def test_a_network_whose_first_layer_reads_the_picture_goes_on_from_the_picture() -> None:
    both = family("picture")
    root = both.compiled.record.paths[0][0]
    for graph in both.compiled.record.graphs:
        assert graph.start != root
        assert all((output.kind, output.node) != ("values", root) for output in graph.outputs)
    counting = _Counting(both)
    session = CompiledSession(counting, images(both.compiled, COUNT))  # type: ignore[arg-type]
    session.look("pooled", 0, both.configurations[0], np.arange(COUNT))
    session.mixed([both.configurations[0]] * COUNT)
    assert [(start, emits) for start, _, emits, _ in counting.ran] == [(None, False), (None, False)]


def test_refuses_what_is_not_compiled() -> None:
    both = family("residual")
    session = CompiledSession(both.compiled, images(both.compiled, 2))
    other = both.eager.default.changed({"dilation": (5, 5)})
    rows = np.arange(2)
    with pytest.raises(UserError, match=r"s2-2_d5-5_k3-3 is not among the 9 configurations compiled in .*float32"):
        session.logits(other, rows)
    with pytest.raises(UserError, match="no gridded look at layer B under s2-2_d1-1_k3-3 is compiled"):
        session.look("gridded", 1, both.configurations[0], rows)
    with pytest.raises(UserError, match="2 images but 1 configurations"):
        session.mixed(both.configurations[:1])
    with pytest.raises(UserError, match=r"images of shape \(2, 3, 16, 16\): compiled for \(N, 3, 32, 32\)"):
        CompiledSession(both.compiled, images(both.compiled, 2)[:, :, :16, :16])
    assert (session.macs == 0).all()  # refused questions are not charged


def test_needs_no_torch() -> None:
    both = family("recalibrated")
    expected = CompiledSession(both.compiled, images(both.compiled, 3)).mixed([both.configurations[0]] * 3)
    code = f"""
import sys
from pathlib import Path
import numpy as np
from dynamic.compiled.folder import CompiledNetwork
from dynamic.compiled.session import CompiledSession
network = CompiledNetwork.open(Path({str(both.compiled.folder)!r}))
images = np.random.default_rng(0).standard_normal((3, 3, 32, 32), dtype=np.float32)
session = CompiledSession(network, images)
print(repr(session.mixed([network.configurations[0]] * 3).tolist()))
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(np.array(eval(done.stdout)), expected, atol=1e-5)


def test_stretches_side_by_side_give_what_each_gives_alone() -> None:
    compiled = family("residual").compiled
    graphs = [graph for graph in compiled.record.graphs if graph.start is None]
    jobs = [(graphs[n % len(graphs)], {"images": images(compiled, count)}) for n, count in enumerate([1, 4, 2, 1, 3, 1])]
    for some in (jobs, jobs[:1], jobs[1:2] + jobs[4:5], []):
        for made, job in zip(compiled.run_all(some), some, strict=True):
            for values, expected in zip(made, compiled.run(*job), strict=True):
                np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(Exception, match="nothing"):
        compiled.run_all([jobs[0], (graphs[0], {"nothing": images(compiled, 1)})])
