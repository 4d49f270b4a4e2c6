from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from dynamic import Configuration
from dynamic.attributes import registry
from serving.inference.description import options_of
from serving.schema import Feedback, Layer
from tests.pages import rotation


def test_layers_name_the_options_of_every_attribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_all", {})
    monkeypatch.setattr(registry, "_sources", {})
    plain = Configuration((1, 0.5), (1, 2), (3, 3))
    assert [layer.model_dump_json() for layer in options_of(plain)] == [
        '{"layer":"A","stride":1.0,"dilation":1,"kernel_size":3}',
        '{"layer":"B","stride":0.5,"dilation":2,"kernel_size":3}',
    ]
    listed = {name: facts["type"] for name, facts in Layer.model_json_schema()["properties"].items()}
    assert listed == {"layer": "string", "stride": "number", "dilation": "integer", "kernel_size": "integer"}
    registry.register(rotation(tmp_path))
    turned = options_of(plain.changed({"rotation": (0, 3)}))
    assert [layer.model_dump()["rotation"] for layer in turned] == [0, 3]
    assert Layer.model_json_schema()["properties"]["rotation"] == {"title": "Rotation", "type": "integer"}
    assert "rotation" in Layer.model_json_schema()["required"]


@pytest.mark.parametrize("label", [True, False, 3.0, -1, None, ["1"]])
def test_a_class_is_a_name_or_a_whole_number(label: object) -> None:
    with pytest.raises(ValidationError):
        Feedback(id="x", label=label)
    assert Feedback(id="x", label=3).label == 3
    assert Feedback(id="x", label="3").label == "3"
