"""The live page for everybody: axe finds nothing serious in any view, and a keyboard is enough."""

import json
from typing import Any

import pytest

from tests.browser import VIEWS, looked_at
from tests.gateway import Door

STOPS = 400
HEALTH = ("ok", "warn", "fail", "off")
FOCUSED = """() => {
  const at = document.activeElement, box = at.getBoundingClientRect(), style = getComputedStyle(at);
  return {body: at === document.body, name: at.outerHTML.slice(0, 80),
          link: at.getAttribute("href"), skip: at.className === "skip",
          seen: box.width > 1 && box.height > 1 && box.right > 0 && box.left < innerWidth &&
                style.outlineStyle !== "none"};
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_serious_in_any_view(books: None, simulated: Door, chromium: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.async_playwright", reason="axe is not installed").Axe()
    found = []
    async with looked_at(chromium, simulated.url, color_scheme=scheme) as page:
        await page.route("**/api/v1/health", _doctor)
        for view in (*VIEWS, "one request"):
            await _open(page, simulated.url, view)
            told = await axe.run(page)
            found += [
                (view, broken["id"], broken["impact"], [node["html"][:120] for node in broken["nodes"][:3]])
                for broken in told.response["violations"]
                if broken["impact"] in {"serious", "critical"}
            ]
    assert found == []


async def test_a_keyboard_alone_reaches_every_view_and_all_that_is_in_it(
    books: None, simulated: Door, chromium: Any
) -> None:
    async with looked_at(chromium, simulated.url) as page:
        await page.route("**/api/v1/health", _doctor)
        for view in VIEWS:
            await _to(page, lambda at, view=view: at["link"] == f"#/{view}")
            await page.keyboard.press("Enter")
            await page.locator(f'nav a[aria-current][href="#/{view}"]').wait_for()
            await _settled(page, view)
            await _to(page, lambda at: at["skip"])
            await page.keyboard.press("Enter")
            assert await page.evaluate("document.activeElement.id") == "main"
            hidden = [at["name"] for at in await _round(page) if not at["seen"]]
            assert hidden == [], view


async def _doctor(route: Any) -> None:
    """Finds one of each kind."""
    found = [{"part": state, "state": state, "detail": "says so", "cure": "do so"} for state in HEALTH]
    await route.fulfill(body=json.dumps({"findings": found}), content_type="application/json")


async def _open(page: Any, url: str, view: str) -> None:
    if view == "one request":
        await page.goto(f"{url}/#/requests")
        await page.locator("tbody a").first.click()
    else:
        await page.goto(f"{url}/#/{view}")
    await _settled(page, view)
    if view == "mesh":
        await page.locator("[data-worker] summary").click()


async def _settled(page: Any, view: str) -> None:
    """All that the view shows is there."""
    shown = {
        "mesh": "[data-worker]",
        "requests": "tbody a",
        "money": ".uplot",
        "chat": "textarea",
        "keys": ".findings li",
        "one request": "pre.words",
    }
    await page.locator(shown[view]).first.wait_for()


async def _to(page: Any, wanted: Any) -> None:
    """Presses Tab until the focus is on what is wanted."""
    for _ in range(STOPS):
        await page.keyboard.press("Tab")
        if wanted(await page.evaluate(FOCUSED)):
            return
    raise AssertionError("Tab never comes there")


async def _round(page: Any) -> list[dict[str, Any]]:
    """Where Tab goes from here until it leaves the page."""
    stops: list[dict[str, Any]] = []
    for _ in range(STOPS):
        await page.keyboard.press("Tab")
        at = await page.evaluate(FOCUSED)
        if at["body"] or at["skip"]:
            return stops
        stops.append(at)
    raise AssertionError("Tab never leaves the page")
