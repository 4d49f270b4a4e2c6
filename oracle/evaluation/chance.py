"""Whether a network does better than chance: where it does not, labels in another order are the likeliest reason."""

from __future__ import annotations

import numpy as np

SIGNIFICANCE = 0.05


def no_better_than_chance(predicted: np.ndarray, labels: np.ndarray, classes: int) -> str | None:
    """A sentence where predictions agree with labels no more often than if they had nothing to do with them; else None.

    Chance is the agreement of two independent draws, one of the classes predicted and one of the labels. So a network that
    always answers the commonest class is at chance, however common that is. Where all labels are one class, chance is one of
    ``classes``. It takes two tests: that of being at chance does not reject, and that of being halfway from chance to always
    right does. Where neither does, there are too few images to say anything.

    Args:
        predicted: (N,) class indices, -1 where an answer is not finite.
        labels: (N,) class indices.
        classes: of the network.

    >>> labels = np.arange(300) % 3
    >>> no_better_than_chance(labels, labels, 3)
    >>> no_better_than_chance((labels + 1) % 3, labels, 3)
    'the default is right on 0.0% of 300 images, no better than chance (33.3%)'
    """
    if not len(labels):
        return None
    from scipy.stats import binomtest  # takes longer to import than some commands to run

    chance = 1 / classes
    if len(np.unique(labels)) > 1:
        found = predicted[predicted >= 0]
        chance = float(np.bincount(found, minlength=classes) @ np.bincount(labels, minlength=classes)) / len(labels) ** 2
    hits, chance = int((predicted == labels).sum()), min(chance, 1.0)
    if binomtest(hits, len(labels), chance, alternative="greater").pvalue <= SIGNIFICANCE:
        return None
    if binomtest(hits, len(labels), (1 + chance) / 2, alternative="less").pvalue > SIGNIFICANCE:
        return None
    share = hits / len(labels)
    return f"the default is right on {share:.1%} of {len(labels)} images, no better than chance ({chance:.1%})"
