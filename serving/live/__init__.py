"""Answers and labels in the database, and the gap to the oracle on live traffic."""
