"""From a run to fitted policies."""
