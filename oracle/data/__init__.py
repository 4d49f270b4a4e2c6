"""Labelled images: data sets, their splits, views of them, images to train on."""
