from __future__ import annotations

from serving.errors import CODES
from serving.http.openapi import document


def test_every_refusal_of_a_client_s_is_in_the_document() -> None:
    text = str(document())
    # What stands for addresses and methods that the document does not have, and for bugs, it cannot have.
    assert [code for code in CODES if f"`{code}`" not in text] == ["method_not_allowed", "internal"]


def test_answers_that_say_when_to_come_again_say_so_in_the_document() -> None:
    for methods in document()["paths"].values():
        for operation in methods.values():
            for status in ("429", "503"):
                if status in operation["responses"]:
                    assert "Retry-After" in operation["responses"][status]["headers"]
