from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dynamic
from benchmarks.widen import WidenSettings, main
from dynamic.configuration import Configuration
from dynamic.scenes import FashionScenes
from tests.plain_loop import plain_loop


@pytest.mark.slow
def test_the_widened_network_answers_as_the_slim_one_does_at_the_full_network_s_cost(tmp_path: Path) -> None:
    path = tmp_path / "widened.safetensors"
    main(WidenSettings(out=path))
    slim = dynamic.load("resnet50-slim", weights="distillation-ladder")
    full = dynamic.load("resnet50", weights=str(path))
    images = FashionScenes("test", "matched", count=4).render(range(4))
    configurations = [slim.default, Configuration.parse("s3-2-2-3_d1-2-1-1_k3-3-5-3")]
    expected = plain_loop(slim.original, "resnet50-slim", configurations, images)
    found = plain_loop(full.original, "resnet50", configurations, images)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert load_file(path)["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
    assert full.macs(full.default, 96) > 14 * slim.macs(slim.default, 96)
