"""From pictures to answers."""
