"""A policy from a file of one's own: the page's example, and everything that can be wrong with such a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dynamic import UserError
from selector.learning.fitting import calibrate
from selector.learning.training import TrainSettings, fit_all
from selector.observation.images import RecordedImages
from selector.observation.observations import Observations
from selector.policies import REFERENCES, load_policy, make
from selector.policies.running import PolicyRuns
from selector.scoring.ranking import rank
from tests.pages import EXTENDING, files

Splits = tuple[Observations, Observations]


def example(folder: Path, *changes: tuple[str, str]) -> str:
    """The page's policy in a file of ``folder``, as --policies takes it."""
    code = files(EXTENDING.read_text())["my_policy.py"]
    for before, after in changes:
        assert before in code
        code = code.replace(before, after)
    (folder / "my_policy.py").write_text(code)
    return f"{folder / 'my_policy.py'}:Plain"


@pytest.fixture
def edged(ruled: Splits) -> Splits:
    """Pictures whose edges tell whether the cheapest configuration is right; the dearest always is."""
    found = []
    for images in ruled:
        image = images.image.copy()
        image[:, 6] = images.image[:, 0]
        plain = image[:, 6] < 0
        predicted = np.stack([images.labels, *[images.labels + 1] * 2, np.where(plain, images.labels, -1)], axis=1)
        found.append(replace(images, image=image, predicted=predicted.astype(np.int32)))
    return found[0], found[1]


def test_the_example_learns_is_kept_and_beats_the_default(edged: Splits, tmp_path: Path) -> None:
    label, test = edged
    policies = fit_all(make(f"{example(tmp_path)},cascade"), label, tmp_path / "policies", seed=0)
    assert [policy.name for policy in policies] == [*(policy.name for policy in REFERENCES), "cascade", "plain"]
    (tmp_path / "my_policy.py").unlink()
    loaded = load_policy(tmp_path / "policies" / "plain")
    assert (loaded.cheap_, loaded.best_) == (3, 0)  # type: ignore[attr-defined]
    for dial in policies[-1].dials:
        assert (loaded.decide(RecordedImages(test), dial) == policies[-1].decide(RecordedImages(test), dial)).all()
    row = next(row for row in rank(policies, label, PolicyRuns(test)).rows if row["name"] == "plain/efficiency")
    assert row["accuracy"] > 0.97
    assert row["gmacs"] < 0.8 * test.costs.default / 1e9
    kept = tmp_path / "policies" / "plain" / "policy.py"
    kept.write_text(kept.read_text() + "\n# changed\n")
    with pytest.raises(UserError, match=r"policy.py is missing or damaged: restore a copy"):
        load_policy(kept.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("class Plain", "class Simple"), "has no class Plain: its policies are Simple"),
        (("class Plain(Policy)", "class Plain"), "Plain is no policy: derive it from selector.policies.base.Policy"),
        (("class Plain", "class class"), r"my_policy.py, line 11: invalid syntax"),
        (("import numpy as np", "import nump as np"), r"my_policy.py, line 1: ModuleNotFoundError: No module named 'nump'"),
        (('"plain"', '"Plain one"'), "Plain needs a name of small letters"),
        (('"plain"', '"cascade"'), "a policy called 'cascade' is there already: give Plain another name"),
        (("_decide", "_choose"), "Plain lacks _decide"),
        (("def _fit", "def fit"), "Plain lacks _fit"),
        (("(0.0, 0.25, 0.5, 0.75, 1.0)", "()).__class__(set()"), "line"),
        (("self.shares = tuple(shares)", "self._shares = shares"), r"Plain\(\) must work without arguments, keep each as"),
        (("    def _state", "    def decide(self, images, dial=None): ...\n\n    def _state"), "must not change decide"),
        (("        self.shares =", "        self.decide = 0\n        self.shares ="), "must not change decide"),
        (("    def _state", "    fit = property(lambda self: 0)\n\n    def _state"), "must not change fit"),
        (
            ("class Plain(Policy):", "class Policy(Policy):\n    def decide(self, images): ...\n\nclass Plain(Policy):"),
            "must not change decide",
        ),
        (("        self.shares =", "        raise RuntimeError('no')\n        self.shares ="), "line 21: RuntimeError: no"),
        (("        self.shares =", "        raise SystemExit\n        self.shares ="), "line 21: ended the program"),
        (("EDGES =", "raise SystemExit(0)\nEDGES ="), "line 8: ended the program: keep what is a script"),
    ],
)
def test_a_wrong_file_is_one_line(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as refused:
        TrainSettings(run=tmp_path, policies=example(tmp_path, change))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_and_two_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the policy file .*none.py: No such file"):
        make(f"{tmp_path / 'none.py'}:Plain")
    with pytest.raises(UserError, match="two policies are called 'plain'"):
        make(f"{example(tmp_path)},{example(tmp_path)}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("edges = images.features", "edges = 1 / 0 * images.features"), r"plain fails: .*my_policy.py, line 36: ZeroDivis"),
        (
            ("np.median(edges)", "np.mediann(edges)"),
            r"plain fails: .*my_policy.py, line 31: AttributeError: module 'numpy' has",
        ),
        (("self.cheap_, self.best_)\n\n", "99, self.best_)\n\n"), "an array of as many whole numbers from 0 to 3"),
        (("self.cheap_, self.best_)\n\n", "0.5, self.best_)\n\n"), "an array of as many whole numbers from 0 to 3"),
        (("self.cheap_, self.best_)\n\n", "images._seen.labels % 4, 0)\n\n"), "plain decides by the labels of the images"),
        (
            ("self.cheap_, self.best_)\n\n", "(images.keys > 'j').astype(int), 0)\n\n"),
            "plain decides by the names of the images, which may tell their labels",
        ),
        (
            ("self.cheap_, self.best_)\n\n", "np.random.default_rng().integers(0, 4, len(edges)), 0)\n\n"),
            "plain decides otherwise when it is asked again about the same images: draw no lots",
        ),
        (
            ('images.features("image")[:, EDGES]  #', "images._seen.image[:, EDGES]  #"),
            "plain decides by what it has not asked for",
        ),
        (
            ("        return np.where", "        images._charged = images._charged * 0\n        return np.where"),
            "plain hides what it asked: whatever it asks of Images is charged",
        ),
        (
            (
                "        return np.where",
                "        ran = 1 * images._ran\n        images.look(0)\n        images._ran = ran > 0\n"
                "        return np.where",
            ),
            "plain hides what it asked: whatever it asks of Images is charged",
        ),
        (
            ("        return np.where", "        images.charge(-1e6)\n        return np.where"),
            r"plain fails: .*ValueError: a charge of -1000000.0 MACs: it must be 0 or more",
        ),
        (
            ("        self.edges_ =", "        observed.labels[:] = 0\n        self.edges_ ="),
            r"plain fails: .*my_policy.py, line 29: ValueError: assignment destination is read-only",
        ),
        (("        self.edges_ =", "        raise SystemExit\n        self.edges_ ="), r"line 29: ended the program"),
        (('"cheap": self.cheap_}', '"cheap": 1}'), "plain forgets: _state and _restore must keep everything"),
    ],
)
def test_what_goes_wrong_in_it_is_one_line(change: tuple[str, str], message: str, edged: Splits, tmp_path: Path) -> None:
    policies = make(example(tmp_path, change))
    with pytest.raises(UserError, match=message) as refused:
        fit_all(policies, edged[0], tmp_path / "policies", seed=0)
    assert "\n" not in str(refused.value)


def test_one_that_looked_at_the_test_split_is_not_ranked(edged: Splits, tmp_path: Path) -> None:
    label, test = edged
    policies = [calibrate(policy, label) for policy in make(example(tmp_path))]
    with pytest.raises(UserError, match="learn from the label split only"):
        policies[-1].fresh().fit(test)
    policies[-1].fitted_on_ |= {str(test.keys[3])}
    with pytest.raises(UserError, match="plain was fitted on 1 of the images it would be scored on"):
        rank(policies, label, PolicyRuns(test))
    # One that was taught to peek after it was trained is found out on the test split.
    policies[-1].fitted_on_ = frozenset(map(str, label.keys))
    type(policies[-1])._decide = lambda self, images, dial: images._seen.labels % 4  # type: ignore[attr-defined,assignment,method-assign]
    with pytest.raises(UserError, match="plain decides by the labels of the images"):
        rank(policies, label, PolicyRuns(test))
