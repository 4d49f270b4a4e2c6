"""What students learn, against plain sums, and what the deferral loss does to a network's confidence."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oracle.training.losses import StudentLoss, deferral_loss


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits, taught = (3 * torch.randn(6, 4, generator=generator) for _ in range(2))
    return logits, taught, torch.randint(4, (6,), generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_student_learns_a_weighted_mean(temperature: float) -> None:
    logits, taught, labels = batch()
    expected = 0.0
    for own, other, label in zip(logits, taught, labels, strict=True):
        p, q = (row.div(temperature).softmax(0) for row in (own, other))
        hard = own.softmax(0)
        copied = -float((q * p.log()).sum()) * temperature**2
        if int(own.argmax()) == int(label):
            deferred = -0.5 * math.log(hard[label])
        else:
            deferred = 0.5 * float((hard * (hard * 4).log()).sum())
        expected += 0.7 * (0.8 * copied - 0.2 * math.log(hard[label])) + 0.3 * deferred
    loss = StudentLoss(label_weight=0.2, deferral_weight=0.3, temperature=temperature)
    assert float(loss(logits, taught, labels)) == pytest.approx(expected / 6, rel=1e-5)


def test_of_itself_it_is_distillation_alone() -> None:
    logits, taught, labels = batch()
    assert torch.equal(StudentLoss()(logits, taught, labels), F.cross_entropy(logits, taught.softmax(dim=1)))


def test_temperature_keeps_the_size_of_gradients() -> None:
    """Close to the teacher, where the loss is quadratic in the difference of logits."""
    _, taught, labels = batch()
    sizes = []
    for temperature in (50.0, 100.0):
        logits = (taught + 0.1 * torch.randn(6, 4, generator=torch.Generator().manual_seed(1))).requires_grad_()
        StudentLoss(temperature=temperature)(logits, taught, labels).backward()
        assert logits.grad is not None
        sizes.append(float(logits.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_deferral_makes_a_wrong_answer_less_sure_and_a_right_one_surer() -> None:
    """A linear network on points of two classes, a part of which has random labels, and a teacher that is sure of all: with
    the deferral loss wrong answers are less sure, and confidence tells right ones from wrong ones."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(400, 2, generator=generator)
    odd = points[:, 1] > 0.5  # where labels are a coin's
    labels = torch.where(odd, torch.randint(2, (400,), generator=generator), (points[:, 0] > 0).long())
    inputs = torch.cat([points, odd[:, None].float(), odd[:, None] * points, torch.ones(400, 1)], dim=1)
    sure = {}
    for weight in (0.0, 0.9):
        weights = torch.zeros(6, 2, requires_grad=True)
        optimizer = torch.optim.SGD([weights], lr=0.5)
        taught = torch.stack([-4 * points[:, 0], 4 * points[:, 0]], dim=1)  # knows nothing of the odd ones
        for _ in range(200):
            optimizer.zero_grad()
            StudentLoss(deferral_weight=weight)(inputs @ weights, taught, labels).backward()
            optimizer.step()
        confidence, predicted = (inputs @ weights).detach().softmax(dim=1).max(dim=1)
        right = predicted == labels
        sure[weight] = float(confidence[~right].mean()), float(confidence[right].mean()), float(right.float().mean())
    (wrong_before, right_before, accuracy_before), (wrong, right_now, accuracy) = sure[0.0], sure[0.9]
    assert wrong < wrong_before - 0.03
    assert right_now - wrong > 0 > right_before - wrong_before
    assert accuracy > accuracy_before - 0.02


def test_gradients_of_the_deferral_loss_point_where_it_says() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]], requires_grad=True)
    deferral_loss(logits, torch.tensor([0, 1])).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] < 0 < logits.grad[1, 0]  # descent: surer where right, less sure where wrong
