from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import dynamic
from dynamic import UserError
from dynamic.scenes import FashionScenes
from oracle import rof
from oracle.gate import EVEN_SHARE, Gate, gate_loss, shares
from oracle.rof import RofSettings, fine_tune


def test_every_configuration_gets_its_share_of_a_batch() -> None:
    expected = torch.randn(64, 4) + torch.tensor([0.0, -3.0, 0.0, 3.0])  # the second looks best on almost all
    dealt = shares(expected)
    torch.testing.assert_close(dealt.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(dealt.mean(dim=0), torch.full((4,), 0.25), atol=0.02, rtol=0)
    assert dealt.min() >= EVEN_SHARE / 4 - 1e-6
    # Within a configuration's share, the images that gain most from it.
    advantage = expected.mean(dim=1) - expected[:, 1]
    taken = dealt[:, 1] > 0.5
    assert advantage[taken].mean() > advantage[~taken].mean()
    assert shares(torch.zeros(8, 4)).allclose(torch.full((8, 4), 0.25))


def test_the_gate_learns_what_to_expect() -> None:
    """Large objects cost the first configuration more, small ones the second."""
    scenes = FashionScenes("label", "wide", count=256)
    images, large = scenes.render(range(256)), torch.from_numpy(scenes.sides > 50).float()
    losses = torch.stack([large, 1 - large], dim=1)
    gate = Gate(2)
    assert gate(images[:2]).abs().max() == 0
    optimizer = torch.optim.Adam(gate.parameters(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        gate_loss(gate(images), losses).backward()
        optimizer.step()
    assert (gate(images).argmin(dim=1) == losses.argmin(dim=1)).float().mean() > 0.9


def test_without_a_gate_every_image_trains_all_equally() -> None:
    scenes = FashionScenes("label", count=16)
    images, labels = scenes.render(range(16)), torch.from_numpy(scenes.labels)
    network = dynamic.load("resnet50-slim").train()
    configurations = [network.default, list(dynamic.space("stride", network))[100]]
    loss = rof._together_step(network, network, images, labels, configurations, None)
    gradient = torch.cat([p.grad.flatten() for p in network.original.parameters() if p.grad is not None])
    network.zero_grad()
    with rof._statistics_held(network):
        each = [F.cross_entropy(network(images, c), labels) for c in configurations]
    sum(each).div(2).backward()  # type: ignore[union-attr]
    expected = torch.cat([p.grad.flatten() for p in network.original.parameters() if p.grad is not None])
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    assert loss == pytest.approx(float(sum(each).detach() / 2), rel=1e-4)  # type: ignore[union-attr]


@pytest.mark.parametrize("method", ["specialise", "joint"])
def test_the_command_trains_resumes_and_uses_the_regime(training_folder: Path, method: str) -> None:
    space = training_folder / "two.json"
    space.write_text(json.dumps(["s1-2-2-2_d1-1-1-1_k3-3-3-3", "s2-2-2-2_d1-1-1-1_k3-3-3-3"]))
    options = {
        "data_dir": training_folder,
        "space": str(space),
        "method": method,
        "batch": 16,
        "images": 32,
        "checked_images": 4,
        "dtype": "float32",
        "regime": "wide",
    }
    whole = fine_tune(RofSettings(**options, epochs=2, out=training_folder / "whole"))  # type: ignore[arg-type]
    again = fine_tune(RofSettings(**options, epochs=2, out=training_folder / "whole"))  # type: ignore[arg-type]
    assert whole == again
    assert np.isfinite(whole["loss"])
    with pytest.raises(UserError, match="regime 'wide' there, 'matched' here"):
        fine_tune(RofSettings(**(options | {"regime": "matched"}), epochs=2, out=training_folder / "whole"))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="runs all 361 configurations of --space in every step: list at most 16"):
        fine_tune(RofSettings(**(options | {"space": "stride"}), out=training_folder / "other"))  # type: ignore[arg-type]
