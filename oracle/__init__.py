"""Every configuration on every image: outcomes, bounds, figures, labels."""
