from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dynamic import UserError
from dynamic.integrity import digest_of_file, read_arrays, read_record, write_arrays, write_record


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    record = {"a": [1, 2.5, None], "path": Path("x"), "nested": {"ü": "ß"}}
    write_record(tmp_path / "r.json", record)
    assert read_record(tmp_path / "r.json") == record | {"path": "x"}
    before = digest_of_file(tmp_path / "r.json")
    write_record(tmp_path / "r.json", record)
    assert digest_of_file(tmp_path / "r.json") == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[1]", "a JSON list where an object belongs"),
        ("3", "a JSON int where an object belongs"),
        ('{"a": 1}', "has no checksum: an earlier version made it"),
        ('{"a": 1, "checksum": "0"}', "its checksum differs"),
    ],
)
def test_damaged_records_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        read_record(tmp_path / "r.json")
    assert "\n" not in str(refused.value)


def test_a_missing_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"r\.json cannot be read"):
        read_record(tmp_path / "r.json")


def test_a_value_changed_by_hand_is_found(tmp_path: Path) -> None:
    write_record(tmp_path / "r.json", {"macs": 1})
    (tmp_path / "r.json").write_text((tmp_path / "r.json").read_text().replace('"macs": 1', '"macs": 2'))
    with pytest.raises(UserError, match="its checksum differs"):
        read_record(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["macs"] == 2


def test_every_flipped_byte_of_arrays_is_found_or_changes_nothing(tmp_path: Path) -> None:
    arrays = {"x": np.arange(6, dtype=np.float16).reshape(2, 3), "y": np.array([True, False])}
    path = tmp_path / "a.safetensors"
    write_arrays(path, arrays)
    content, refused = path.read_bytes(), 0
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        try:
            found = read_arrays(path)
        except UserError:
            refused += 1
            continue
        assert found.keys() == arrays.keys()
        assert all(np.array_equal(found[name], arrays[name]) and found[name].dtype == arrays[name].dtype for name in arrays)
    assert refused > len(content) / 2


def test_arrays_that_are_missing_or_something_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_arrays(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(UserError, match="cannot be read"):
        read_arrays(tmp_path / "text.safetensors")
