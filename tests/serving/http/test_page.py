"""The page in a browser, before answers that the test makes up."""

from __future__ import annotations

import json
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
    "live": {"labelled": 0, "evaluated": 0, "answered": [], "compared": []},
}
REFUSAL = {"error": {"code": "unauthorized", "message": "send a key"}}


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_asks_for_a_key_where_one_is_needed_and_sends_it() -> None:
    sync_api = pytest.importorskip("playwright.sync_api")

    def answer(route: Any) -> None:
        if route.request.url.endswith("/ui"):
            route.fulfill(body=PAGE, content_type="text/html")
        elif route.request.headers.get("x-api-key") != "mine":
            route.fulfill(status=401, content_type="application/json", body=json.dumps(REFUSAL))
        else:
            found = NETWORK if route.request.url.endswith("/v1/network") else GAP
            route.fulfill(content_type="application/json", body=json.dumps(found))

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.route("**/*", answer)
        page.goto("http://service.example/ui")
        page.wait_for_selector("#key", state="visible")
        assert page.inner_text("#problem") == "send a key"
        page.fill("#key", "mine")
        page.locator("#key").blur()
        page.wait_for_selector("body[data-ready=true]")
        assert page.inner_text("#problem") == ""
        page.reload()
        page.wait_for_selector("body[data-ready=true]")  # the tab keeps it
        assert not page.is_visible("#key")
        browser.close()
