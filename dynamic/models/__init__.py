"""Networks by name: what there is, their weights, their dynamic layers."""
