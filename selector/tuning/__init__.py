"""From a network and a folder of images to a run that can be served, in one go."""
