"""The live page in a real Chromium before a real mesh: how soon it is there, how soon a death is seen, how it looks.

`bullpen up` starts simulated workers; questions are asked all the while, and one worker is killed. Writes
`results/page.json`, `docs/page.png`, and each view at three widths into `--pictures`. Needs Chromium, and Playwright
(`pip install --require-hashes --no-deps -r tests/browser.lock`).
"""

import asyncio
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import results
from benchmarks.books import fill
from telemetry.store import Store

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = ((360, "light"), (800, "dark"), (1200, "light"))
VIEWS = ("mesh", "requests", "money", "chat", "keys")
MODELS: list[dict[str, Any]] = [
    {"name": "quick-one", "price": {"input_per_mtok": 0.1, "output_per_mtok": 0.4}},
    {"name": "thorough-one", "price": {"input_per_mtok": 2, "output_per_mtok": 8}},
    {"name": "ours"},
]
WORKERS = {
    "BULLPEN_SIMULATED__MODELS": json.dumps(MODELS),
    "BULLPEN_SIMULATED__TOKENS_PER_SECOND": "40",
    "BULLPEN_SIMULATED__OUTPUT_TOKENS": '{"min": 20, "max": 80}',
    "BULLPEN_SIMULATED__MAX_CONCURRENCY": "8",
}
ASKED_EVERY = 0.3
SETTLES = 2.5
SEARCHES = ("", "&status=error", "&model=quick-one", "&tenant=acme", "&text=river")


def run(rows: int, pictures: str) -> None:
    """`rows`: requests in the books that are searched."""
    Path(pictures).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "bullpen"]
        environment = {**os.environ, **WORKERS, "BULLPEN_DATA_DIR": directory}
        up = [*command, "up", "--detach", "--workers", "simulated:4", "--managers", "2"]
        subprocess.run(up, env=environment, check=True)
        try:
            endpoints = json.loads((Path(directory) / "endpoints.json").read_text())
            figures = asyncio.run(_look(endpoints, rows, Path(pictures)))
        finally:
            subprocess.run([*command, "down"], env=environment, check=False)
    print(json.dumps(figures, indent=2))
    results.write("page", figures, does_not_prove=["anything about a slow network, or a mesh of hundreds of workers"])


async def _look(endpoints: dict[str, Any], rows: int, pictures: Path) -> dict[str, Any]:
    from playwright.async_api import async_playwright  # noqa: PLC0415 — nobody else needs it

    url = endpoints["http_url"]
    asking = asyncio.create_task(_ask(url))
    try:
        async with async_playwright() as playwright:
            program = shutil.which("chromium")
            chromium = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            await asyncio.sleep(SETTLES * 4)
            figures = {"first_card_ms": await _loads(chromium, url)}
            figures |= await _death(chromium, url, endpoints["pids"], ROOT / "docs" / "page.png")
            await _pictures(chromium, url, pictures)
            await chromium.close()
    finally:
        asking.cancel()
    store = Store(endpoints["database_url"], 300)
    month = timedelta(days=30)
    await fill(store, rows, datetime.now(UTC) - month, month)
    await store.close()
    return {**figures, "books": rows, "search_ms": await _searches(url)}


async def _ask(url: str) -> None:
    names = ("auto", *(model["name"] for model in MODELS))
    async with aiohttp.ClientSession() as session:

        async def ask(number: int) -> None:
            words = [{"role": "user", "content": f"Question {number}: what is the capital of France?"}]
            told = {"model": random.choice(names), "stream": number % 2 == 0, "messages": words}
            body = {**told, "metadata": {"tenant": random.choice(("acme", "globex"))}}
            with suppress(aiohttp.ClientError):
                async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                    await answer.read()

        async with asyncio.TaskGroup() as group:
            number = 0
            while True:
                group.create_task(ask(number := number + 1))
                await asyncio.sleep(ASKED_EVERY)


async def _loads(chromium: Any, url: str) -> float:
    """Milliseconds until a worker is shown; the median of five, each by a browser that has never been there."""
    taken = []
    for _ in range(5):
        page = await (await chromium.new_context()).new_page()
        began = time.perf_counter()
        await page.goto(url)
        await page.locator("[data-worker]").first.wait_for()
        taken.append((time.perf_counter() - began) * 1000)
        await page.context.close()
    return round(statistics.median(taken))


async def _death(chromium: Any, url: str, pids: dict[str, int], picture: Path) -> dict[str, float]:
    page = await (await chromium.new_context(viewport={"width": 1200, "height": 880})).new_page()
    await page.goto(url)
    card = page.locator('[data-worker="simulated-3"]')
    await card.wait_for()
    os.kill(pids["worker-simulated-3"], signal.SIGKILL)
    began = time.perf_counter()
    await card.locator(".badge.bad").first.wait_for()
    seen = time.perf_counter() - began
    await asyncio.sleep(0.2)
    await page.screenshot(path=picture)
    await card.locator(".badge", has_text="ready").wait_for()
    back = time.perf_counter() - began
    await page.context.close()
    return {"death_seen_s": round(seen, 2), "return_seen_s": round(back, 2)}


async def _pictures(chromium: Any, url: str, folder: Path) -> None:
    for width, scheme in WIDTHS:
        context = await chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page = await context.new_page()
        for view in VIEWS:
            await page.goto(f"{url}/#/{view}")
            if view == "chat":
                await page.fill("textarea", "Tell me of the river")
                await page.keyboard.press("Enter")
            if view == "keys":
                await page.locator(".findings li").first.wait_for()
            await asyncio.sleep(SETTLES)
            await page.screenshot(path=folder / f"{view}-{width}.png", full_page=True)
        await context.close()


async def _searches(url: str) -> dict[str, float]:
    """Milliseconds for a page of a hundred, the slowest of five."""
    found: dict[str, float] = {}
    async with aiohttp.ClientSession() as session:
        for search in SEARCHES:
            taken = []
            for _ in range(5):
                began = time.perf_counter()
                async with session.get(f"{url}/api/v1/requests?limit=100{search}") as answer:
                    await answer.read()
                    answer.raise_for_status()
                taken.append((time.perf_counter() - began) * 1000)
            found[search.strip("&") or "all"] = round(max(taken))
    return found
