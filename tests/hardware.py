"""What tests need of the CPU."""

from __future__ import annotations

import pytest

from dynamic.resources import cpu_has_int8

needs_int8 = pytest.mark.skipif(not cpu_has_int8(), reason="this CPU adds products of 8 bits in 16, which overflow")
"""For what runs graphs in 8 bits."""
