"""Training: one loop, what it leaves on disk."""
