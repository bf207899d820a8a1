"""The live page in a real browser: what a person sees, without touching anything, and what they can do there."""

from typing import Any

from gateway.keys.office import KeyOffice
from tests.browser import EVIL, VIEWS, looked_at
from tests.fake_worker import Asked, FakeWorker, acting
from tests.gateway import STORY, Door, door_of, torn
from tests.mesh import SmallMesh
from tests.support import eventually


async def test_a_worker_s_death_and_return_are_seen_without_touching_anything(
    mesh: SmallMesh, simulated: Door, chromium: Any
) -> None:
    async def tell(asked: Asked) -> None:
        await asked.answer("so be it")

    async with FakeWorker(mesh.bus, "fake-1", acting(tell)) as fake, looked_at(chromium, simulated.url) as page:
        card = page.locator('[data-worker="fake-1"]')
        await card.locator(".badge.good", has_text="ready").wait_for()
        fake.hold_breath()
        await card.locator(".badge.bad", has_text="silent").wait_for()
        fake.breathe()
        await card.locator(".badge.good", has_text="ready").wait_for()


async def test_drain_and_resume_are_asked_first_and_done_by_keyboard(simulated: Door, chromium: Any) -> None:
    async with looked_at(chromium, simulated.url) as page:
        card = page.locator('[data-worker="w-1"]')
        for verb, state in (("Drain", "draining"), ("Resume", "ready")):
            await card.locator("summary").focus()
            await page.keyboard.press("Enter")
            await page.keyboard.press("Tab")
            while await page.evaluate("document.activeElement.textContent") != verb:
                await page.keyboard.press("Tab")
            await page.keyboard.press("Enter")
            dialog = page.locator("dialog[open]")
            await dialog.get_by_role("button", name=verb, exact=True).press("Enter")
            await dialog.locator(".done").wait_for()
            await page.keyboard.press("Escape")
            await dialog.wait_for(state="detached")
            await card.locator(".badge", has_text=state).wait_for()


async def test_a_viewer_sees_the_buttons_and_cannot_press_them(mesh: SmallMesh, simulated: Door, chromium: Any) -> None:
    _, secret = await (await KeyOffice.open(mesh.bus)).create("ops", role="viewer")
    async with looked_at(chromium, "about:blank") as page:

        async def has_to_sign_in() -> bool:
            await page.goto(simulated.url)
            await page.locator("main").wait_for()
            return bool(await page.locator("input[type=password]").count())

        await eventually(has_to_sign_in, timeout=40)
        await page.fill("input[name=key]", "bp-wrong")
        await page.keyboard.press("Enter")
        await page.locator(".problem").wait_for()
        await page.fill("input[name=key]", secret)
        await page.keyboard.press("Enter")
        card = page.locator('[data-worker="w-1"]')
        await card.locator("summary").click()
        assert await card.get_by_role("button", name="Drain", exact=True).is_disabled()
        assert await page.evaluate("document.cookie") == ""


async def test_the_books_are_searched_and_their_words_are_inert(books: None, simulated: Door, chromium: Any) -> None:
    async with looked_at(chromium, f"{simulated.url}/#/requests") as page:
        rows = page.locator("tbody tr")
        await rows.nth(99).wait_for()
        await page.get_by_role("button", name="Older ones").click()
        await rows.nth(149).wait_for()
        await page.fill("input[name=text]", "question 77")
        for _ in range(2):  # what is typed stays when the newest come, and with them the mesh's events
            async with page.expect_response(lambda answer: "/api/v1/requests?" in answer.url):
                pass
        await page.keyboard.press("Enter")
        await rows.nth(1).wait_for(state="detached")
        assert page.url.endswith("#/requests?text=question+77")
        await rows.locator("a").click()
        answer = page.locator("pre.words").nth(1)
        await answer.wait_for()
        shown = await answer.text_content()
        assert shown == EVIL.replace("\u202e", "‹202E›").replace("\x1b", "‹001B›")
        assert await answer.locator("img").count() == 0
        assert "Bullpen" in await page.title()


async def test_a_chat_is_answered_through_the_loss_of_its_worker(mesh: SmallMesh, chromium: Any) -> None:
    async with torn(mesh, prefill=False) as told, looked_at(chromium, f"{told.door.url}/#/chat") as page:
        await page.fill("textarea", "Tell me a story")
        await page.keyboard.press("Enter")
        words = page.locator(".turn.model .words")
        await page.locator(".turn.model .words", has_text="It was late").wait_for()
        told.read("half of it")
        await page.locator(".turn.model .badge", has_text="was lost").wait_for()
        await page.locator(".turn.model .about").wait_for()
        pieces = await words.locator("> bdi").all_text_contents()
        assert "".join(pieces) == STORY
        assert "2 attempts" in await page.locator(".about").inner_text()


async def test_a_page_that_is_cut_off_says_how_old_it_is_and_comes_back(mesh: SmallMesh, chromium: Any) -> None:
    await mesh.worker("w-1")
    async with door_of(mesh) as door, looked_at(chromium, door.url) as page:
        port = door.port
        await page.locator('[data-worker="w-1"]').wait_for()
        door.stop.set()
        await door.running
        await page.locator(".old", has_text="s old").wait_for()
        async with door_of(mesh, "g-2", listen=f"127.0.0.1:{port}"):
            await page.locator(".old").wait_for(state="detached")
            await page.locator('[data-worker="w-1"]').wait_for()


async def test_every_view_fits_a_phone_in_the_dark(books: None, simulated: Door, chromium: Any) -> None:
    async with looked_at(chromium, simulated.url, wide=360, high=640, color_scheme="dark") as page:
        for view in VIEWS:
            await page.goto(f"{simulated.url}/#/{view}")
            await page.locator(f'nav a[aria-current][href="#/{view}"]').wait_for()
            await page.locator("h1").first.wait_for()
            assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) < 150


async def test_a_page_that_nobody_looks_at_hears_nothing(simulated: Door, chromium: Any) -> None:
    hide = "Object.defineProperty(document, 'hidden', {get: () => window.away, configurable: true});"
    tell = "(away) => { window.away = away; document.dispatchEvent(new Event('visibilitychange')); }"
    streams: list[str] = []
    async with looked_at(chromium, "about:blank") as page:
        page.on("request", lambda request: streams.append("open") if request.url.endswith("/events") else None)
        page.on("requestfinished", lambda request: _ended(streams, request))
        page.on("requestfailed", lambda request: _ended(streams, request))
        await page.add_init_script(f"window.away = false; {hide}")
        await page.goto(simulated.url)
        await page.locator('[data-worker="w-1"]').wait_for()
        await page.evaluate(tell, True)
        await eventually(lambda: streams == ["open", "ended"], timeout=40)
        await page.evaluate(tell, False)
        await eventually(lambda: streams == ["open", "ended", "open"], timeout=40)


def _ended(streams: list[str], request: Any) -> None:
    if request.url.endswith("/events"):
        streams.append("ended")
