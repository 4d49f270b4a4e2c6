"""What the service remembers, and the gap to the oracle on live traffic."""
