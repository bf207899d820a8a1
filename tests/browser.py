"""A real Chromium, driven by Playwright; where either is missing, tests that look at the page are skipped."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENT_MS = 60_000
VIEWS = ("mesh", "requests", "money", "chat", "keys")
EVIL = "<img src=x onerror=document.title='owned'>\u202etxt.exe\x1b[31m"


def looking() -> Any:
    """Playwright's asynchronous API. Skips the test where there is none, or no Chromium."""
    if PROGRAM is None:
        pytest.skip("no chromium is installed: `apt-get install chromium`")
    return pytest.importorskip("playwright.async_api", reason="playwright is not installed").async_playwright()


@asynccontextmanager
async def browser() -> AsyncIterator[Any]:
    """One that has seen nothing. What its pages say wrong, in their console or by an exception, fails the test."""
    async with looking() as playwright:
        chromium = await playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            await chromium.close()


@asynccontextmanager
async def looked_at(
    chromium: Any, url: str, *, wide: int = 1200, high: int = 900, **options: Any
) -> AsyncIterator[Any]:
    """A page at that address."""
    context = await chromium.new_context(viewport={"width": wide, "height": high}, **options)
    context.set_default_timeout(PATIENT_MS)
    page = await context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda told: wrong.append(told.text) if "Content Security Policy" in told.text else None)
    try:
        await page.goto(url)
        yield page
        assert wrong == []
    finally:
        await context.close()
