"""Programs that time; each compares with a plain way in the same run."""
