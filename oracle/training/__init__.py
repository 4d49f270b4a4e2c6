"""Fine-tuning a network for many configurations."""
