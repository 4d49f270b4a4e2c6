from __future__ import annotations

import pytest
import torch

from dynamic.training.loop import settled_dtype


@pytest.mark.parametrize(
    ("flags", "settled"),
    [
        ({"avx512f", "avx512_bf16"}, "bfloat16"),
        ({"amx_bf16"}, "bfloat16"),
        ({"avx2", "avx512f"}, "float32"),
        (set(), "float32"),
    ],
)
def test_auto_is_what_the_cpu_multiplies_in(monkeypatch: pytest.MonkeyPatch, flags: set[str], settled: str) -> None:
    monkeypatch.setattr("dynamic.resources.cpu_flags", lambda: frozenset(flags))
    assert settled_dtype("cpu", "auto") == settled
    assert settled_dtype("cpu", "bfloat16") == "bfloat16"
    assert settled_dtype("cpu", "float32") == "float32"


def test_auto_is_what_the_gpu_multiplies_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynamic.resources.cpu_flags", frozenset)
    for has, settled in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert settled_dtype("cuda:1", "auto") == settled
