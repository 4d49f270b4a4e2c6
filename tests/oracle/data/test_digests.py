from __future__ import annotations

import numpy as np

from oracle.data.digests import digest_of


def test_a_blank_or_line_break_in_a_name_is_no_other_table() -> None:
    zeros = np.zeros(2, int)
    found = {
        digest_of(np.array(keys), zeros) for keys in (["a 0\nb", "c"], ["a", "b 0\nc"], [r"a\s0\nb", "c"], ["a\\ 0\nb", "c"])
    }
    assert len(found) == 4


def test_ordinary_names_keep_the_digests_that_stored_runs_carry() -> None:
    assert digest_of(np.array(["label/00000", "test/00000"]), np.array([3, 1])) == "2 (b3a9996a270b)"
