"""The dynamic network as a service: bentoml serve, and every image of a batch runs its own configuration."""
