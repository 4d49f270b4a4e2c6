"""Policies that choose a configuration for each image, learned from the oracle's outcomes, and their benchmark."""
