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
