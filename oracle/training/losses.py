"""What a student of a distillation learns: the teacher's probabilities, the labels, and when it will be deferred.

>>> import torch
>>> logits, labels = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
>>> round(float(StudentLoss(label_weight=1)(logits, logits, labels)), 4)         # cross-entropy
1.1269
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StudentLoss:
    """A weighted mean of three losses; the defaults are distillation alone.

    Attributes:
        label_weight: of the labels, from 0 to 1; the rest is the teacher's.
        deferral_weight: of :func:`deferral_loss`, from 0 to 1; the rest is that of the two others.
        temperature: of the teacher's and the student's probabilities; the loss is multiplied by its square, so that
            gradients keep their size (Hinton et al., "Distilling the knowledge in a neural network", 2015).
    """

    label_weight: float = 0.0
    deferral_weight: float = 0.0
    temperature: float = 1.0

    def __call__(self, logits: Tensor, taught: Tensor, labels: Tensor) -> Tensor:
        """The mean over a batch.

        Args:
            logits: (N, classes) float32 of the student.
            taught: (N, classes) float32 logits of the teacher, without gradient.
            labels: (N,) int64 classes.
        """
        soft = (taught / self.temperature).softmax(dim=1)
        loss = F.cross_entropy(logits / self.temperature, soft) * self.temperature**2
        if self.label_weight:
            loss = (1 - self.label_weight) * loss + self.label_weight * F.cross_entropy(logits, labels)
        if self.deferral_weight:
            loss = (1 - self.deferral_weight) * loss + self.deferral_weight * deferral_loss(logits, labels)
        return loss


def deferral_loss(logits: Tensor, labels: Tensor, balance: float = 0.5) -> Tensor:
    """Sure where right, unsure where wrong, for a network whose unsure answers are deferred to a larger one.

    Cross-entropy over images that are classified correctly, the Kullback-Leibler divergence from the uniform distribution
    over the others (Rabanser et al., "Gatekeeper: improving model cascades through confidence tuning", 2025).

    Args:
        logits: (N, classes) float32.
        labels: (N,) int64 classes.
        balance: weight of the images that are right, from 0 to 1; 1 less it is that of the others.

    Returns:
        The sum of both parts, divided by N.
    """
    right = logits.argmax(dim=1) == labels
    log = logits.log_softmax(dim=1)
    from_uniform = (log.exp() * log).sum(dim=1) + math.log(logits.shape[1])
    parts = balance * right * F.cross_entropy(logits, labels, reduction="none") + (1 - balance) * ~right * from_uniform
    return parts.mean()
