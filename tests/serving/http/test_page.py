"""The page in a browser, before answers that the test makes up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import serving.http
from tests.serving.conftest import CHROMIUM

PAGE = (Path(serving.http.__file__).parent / "templates" / "ui.html").read_text()
NETWORK = {
    "network": "n",
    "default": {"layers": []},
    "policies": [],
    "active": {"policy": "default"},
    "classes": ["cat"],
    "keep": "never",
    "keep_seconds": 0,
}
GAP = {
    "offline": {"available": False, "reason": "not measured"},
    "live": {
        "labelled": 0,
        "evaluated": 0,
        "answered": [],
        "shadowed": [],
        "compared": [],
        "range": {"out_of_range": False},
    },
}
SHADOWED = {
    "policy": "cascade@0.5",
    "shadow": "default",
    "images": 200,
    "agreement": 0.955,
    "gmacs": {"policy": 0.028, "shadow": 0.051},
    "labelled": 100,
    "cases": {
        "policy": {"accuracy": 0.88, "accuracy_ci": [0.8, 0.93]},
        "shadow": {"accuracy": 0.9, "accuracy_ci": [0.83, 0.94]},
    },
    "difference": 0.02,
    "difference_ci": [-0.01, 0.05],
}
RANGE = {
    "out_of_range": True,
    "watched": True,
    "latest": {"images": 1000, "gmacs": 0.0386, "confidence": 0.814, "reached": [0.4, 0.6]},
    "expected": {"gmacs": 0.0283, "confidence": 0.897, "reached": [0.6, 0.4]},
}
REFUSAL = {"error": {"code": "unauthorized", "message": "send a key"}}


pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@contextmanager
def opened(gap: dict[str, Any], key: str | None = None) -> Iterator[Any]:
    """The page in a browser, before a made-up service that asks for a key if there is one."""
    sync_api = pytest.importorskip("playwright.sync_api")

    def answer(route: Any) -> None:
        if route.request.url.endswith("/ui"):
            route.fulfill(body=PAGE, content_type="text/html")
        elif key is not None and route.request.headers.get("x-api-key") != key:
            route.fulfill(status=401, content_type="application/json", body=json.dumps(REFUSAL))
        else:
            found = NETWORK if route.request.url.endswith("/v1/network") else gap
            route.fulfill(content_type="application/json", body=json.dumps(found))

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.route("**/*", answer)
        page.goto("http://service.example/ui")
        yield page
        browser.close()


def test_the_page_asks_for_a_key_where_one_is_needed_and_sends_it() -> None:
    with opened(GAP, key="mine") as page:
        page.wait_for_selector("#key", state="visible")
        assert page.inner_text("#problem") == "send a key"
        page.fill("#key", "mine")
        page.locator("#key").blur()
        page.wait_for_selector("body[data-ready=true]")
        assert page.inner_text("#problem") == ""
        page.reload()
        page.wait_for_selector("body[data-ready=true]")  # the tab keeps it
        assert not page.is_visible("#key")


def test_the_page_shows_the_shadow_and_warns_of_images_out_of_range() -> None:
    with opened({**GAP, "live": {**GAP["live"], "shadowed": [SHADOWED], "range": RANGE}}) as page:
        page.wait_for_selector("#range", state="visible")
        warning = page.inner_text("#range")
        assert "cost 38.6 MMACs where 28.3 were expected" in warning
        assert "81.4 % sure where 89.7 % were" in warning
        row = page.inner_text("#compared tbody tr")
        assert "default beside cascade@0.5, on 200 images, same answer on 95.5 %" in row
        assert "90.0 % [83.0, 94.0], +2.0 points [−1.0, +5.0]" in row
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the warning runs off the page"
