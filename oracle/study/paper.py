"""Numbers of Inkawhich et al. (WACV 2022) that ours are shown beside: ResNet-50 on ImageNet's validation images.

Its full tables were not at hand: here are the numbers the project's design quotes; a table shows a dash for the rest.
"""

from __future__ import annotations

CITATION = "Inkawhich et al., The Untapped Potential of Off-the-Shelf Convolutional Neural Networks, WACV 2022"

RESNET50_IMAGENET: dict[str, dict[str, float]] = {
    "stride": {"static": 0.765, "worst": 0.001, "median": 0.112, "best": 0.937},
    "dilation": {"static": 0.765},
    "size": {"static": 0.765},
}
"""Accuracy as a fraction, by space and case. Across all its spaces the paper reports best cases of 93.7 to 95.8 %."""

FINE_TUNING_GAIN = {"worst": 0.31, "median": 0.36}
"""What random option fine-tuning added on ResNet-50, as fractions (section 3.4)."""

EFFICIENCY = {"same_as_default": ">10", "same_as_best": "2.75"}
"""How many times fewer MACs the cheapest agreeing configurations take (section 4.6)."""

EFFICIENCY_FINE_TUNED = (0.940, 0.3e9)
"""Best case after fine-tuning, and MACs an image at which it is reached (section 4.6)."""

BEST_CASES = (0.937, 0.958)
"""Over all of the paper's spaces, ResNet-50."""
