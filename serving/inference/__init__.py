"""From pictures to answers: opening, planning, preparing, batching, running."""
