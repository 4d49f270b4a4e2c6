from __future__ import annotations

import pytest

from serving.errors import Rejection
from serving.live.feedback import class_index


def test_a_number_is_an_index_whatever_the_classes_are_called() -> None:
    digits = ("0", "1", "10", "2")
    assert class_index(digits, 2) == 2
    assert class_index(digits, "2") == 3
    assert class_index(("shirt", "bag", "coat"), "2") == 2
    with pytest.raises(Rejection):
        class_index(digits, 4)
