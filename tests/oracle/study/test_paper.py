from __future__ import annotations

import pytest

from oracle.report import table_rows
from oracle.study import paper

SPACES = ("stride", "dilation", "size")


@pytest.mark.parametrize("model", ["resnet50", "resnext50_32x4d", "mobilenet_v2", "densenet121"])
@pytest.mark.parametrize("slim", ["", "-slim"])
def test_every_network_and_attribute_of_table_1_has_its_numbers(model: str, slim: str) -> None:
    for space in SPACES:
        assert set(paper.pretrained(model + slim, space)) == {"static", "worst", "median", "best"}
    assert paper.pretrained(model + slim, "efficiency") == {}


def test_papers_means_agree_with_its_rows() -> None:
    """The text's mean gains follow from the tables: what we copied is consistent."""
    gains = [paper.fine_tuning_gain("resnet50-slim", space) for space in SPACES]
    assert round(sum(gain["worst"] for gain in gains) / 3, 1) == paper.NUMBERS["table2_mean_gain"]["worst"]
    assert round(sum(gain["median"] for gain in gains) / 3, 1) == paper.NUMBERS["table2_mean_gain"]["median"]
    assert gains[0] == {"worst": 1.4, "median": 46.4, "best": -1.5}


def test_table_3_has_a_row_for_every_combination() -> None:
    attributes = ("stridexdilation", "stridexkernel_size", "dilationxkernel_size", "stridexdilationxkernel_size")
    assert [paper.combined("resnet50", name)["best"] for name in attributes] == [95.0, 95.8, 92.7, 94.7]
    assert paper.combined("mobilenet_v2", "stridexdilation") == {}
    assert set(paper.INFERRED) == {"stridexdilation", "dilationxkernel_size"}


def test_other_networks_have_no_counterpart() -> None:
    assert paper.pretrained("timm/resnet26", "stride") == {}
    assert paper.fine_tuned("densenet121", "stride") == {}
    assert paper.slashed({}, "worst") == "—"


def test_the_main_table_has_the_papers_column() -> None:
    case = {"static": 0.9, "worst": 0.1, "median": 0.5, "best": 1.0}
    numbers = case | {
        "single_best": {"accuracy": 0.9},
        "intervals": {name: (0.0, 1.0) for name in (*case, "single_best")},
        "macs": {"default": 1, "oracle": 2, "single_best": 1},
    }
    spaces = {name: {"configurations": 2, "test": numbers} for name in (*SPACES, "efficiency")}
    rows = table_rows({"run": {"model": "mobilenet_v2-slim"}, "spaces": spaces})
    column = [row[-1] for row in rows]
    assert column[:5] == ["71.9%", "0.0%", "0.4%", "92.1%", "—"]
    assert column[10:14] == ["71.9%", "0.0%", "0.1%", "82.3%"]
    assert column[15:] == ["—"] * 5
