"""The examples in docstrings run and give what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    ["inference.plans", "inference.budget", "inference.engine", "live.feedback"],
)
def test_examples_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"serving.{name}"))
    assert results.attempted > 0
    assert results.failed == 0, f"see what doctest printed of {name}"
