"""The live page with much in it: hours of a mesh's events, and thousands of rows."""

import json
from typing import Any

from contracts import new_id, utc_now
from tests.browser import looked_at
from tests.gateway import Door

HOURS = 8
UPDATES = 600  # an hour; what is kept by mistake is kept with each
GROWTH_BYTES = 4_000_000
ROWS = 10_000

STORIES = """
window.EventSource = class extends EventTarget {
  constructor() {
    super();
    window.source = this;
    setTimeout(() => this.say("mesh", {workers: workers(0), totals: totals(0)}));
  }
  say(name, told) { this.dispatchEvent(new MessageEvent(name, {data: JSON.stringify(told)})); }
  close() {}
};
const card = (id, n) => ({id, backend: "simulated", state: n % 50 ? "ready" : "lost", reason: "",
  models: [{id: "m", aliases: [], capabilities: [], input_per_mtok: 1, output_per_mtok: 2, grade: "senior"}],
  inflight: n % 8, queued: 0, capacity: 8,
  tokens_per_second: 40, ewma_ms: 1000 + n, cpu_percent: 2, memory_used: 1e8, gpus: []});
const workers = (n) => Object.fromEntries([...Array(20).keys()].map((i) => [`w-${i}`, card(`w-${i}`, n + i + 1)]));
const totals = (n) => ({per_second: n % 9, inflight: 1, waiting: 0, rerouted: n, capacity: 160});
window.hour = async (from, to) => {
  for (let n = from; n < to; n++) {
    const id = `w-${n % 20}`;
    source.say("delta", {workers: {[id]: card(id, n)}, totals: totals(n), routes: [{request_id: `r-${n}`, attempt: 2,
      why: "failover", winner: id, passed_over: [{worker: "w-1", why: "disconnected"}],
      manager: "m-1", ballast: "x".repeat(2000), at: new Date().toISOString()}]});
    if (n % 4 === 0) await new Promise((drawn) => setTimeout(drawn, 0));
  }
};
"""
DRAWN = """
window.drawn = 0;
const clock = Date.prototype.toLocaleTimeString;
Date.prototype.toLocaleTimeString = function (...told) { window.drawn++; return clock.apply(this, told); };
"""


async def test_hours_of_updates_leave_nothing_behind(simulated: Door, chromium: Any) -> None:
    async with looked_at(chromium, "about:blank", reduced_motion="reduce") as page:
        await page.add_init_script(STORIES)
        await page.goto(simulated.url)
        await page.locator('[data-worker="w-19"]').wait_for()
        devtools = await page.context.new_cdp_session(page)
        held = []
        for hour in range(HOURS):
            await page.evaluate(f"hour({hour * UPDATES}, {(hour + 1) * UPDATES})")
            await devtools.send("HeapProfiler.collectGarbage")
            told = await devtools.send("Runtime.getHeapUsage")
            held.append((told["usedSize"], await page.evaluate("document.querySelectorAll('*').length")))
    print("bytes and elements after each hour:", held)
    assert held[-1][0] - held[0][0] < GROWTH_BYTES, held
    assert held[-1][1] - held[0][1] < 100, held


async def test_of_ten_thousand_rows_only_new_ones_are_drawn(simulated: Door, chromium: Any) -> None:
    rows = [
        {"request_id": new_id(), "task_id": f"t-{n}", "created_at": utc_now().isoformat(), "status": "ok", "tenant": ""}
        for n in range(ROWS)
    ]

    async def books(route: Any) -> None:
        after = "after=" in route.request.url
        page = {"requests": rows[100:], "next": None} if after else {"requests": rows[:100], "next": "older"}
        await route.fulfill(body=json.dumps(page), content_type="application/json")

    async with looked_at(chromium, "about:blank") as page:
        await page.add_init_script(DRAWN)
        await page.route("**/api/v1/requests?*", books)
        await page.goto(f"{simulated.url}/#/requests")
        await page.get_by_role("button", name="Older ones").click()
        await page.locator(".more", has_text="10,000 shown").wait_for()
        before = await page.evaluate("drawn")
        assert before >= ROWS
        for _ in range(3):
            async with page.expect_response("**/api/v1/requests?*"):
                pass
        await page.fill("input[name=model]", "quick-one")
        assert await page.evaluate("drawn") - before < ROWS / 2
