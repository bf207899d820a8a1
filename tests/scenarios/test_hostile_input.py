"""Questions that are too large, and messages that no client would send: over real processes, to bare callers, who are
told in words, and beside others, who notice nothing.
"""

import asyncio
import json
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic_core import from_json

from bus import BusError
from tests.books_stream import booked, make_stream
from tests.roles import Roles, roles_on_a_server, unwell
from tests.servers import NatsServer
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180)]

SPACIOUS = '[{"name": "simulated", "context_window": 1000000}]'


async def test_what_is_larger_than_the_server_takes_is_told_both_ways(tmp_path: Path) -> None:
    """An answer, and a piece of a stream, that are larger than `max_payload`. Long before anybody's deadline."""
    async with roles_on_a_server(tmp_path, "max_payload: 64KB\n") as roles:
        roles.manager()
        roles.worker("w-1", BULLPEN_SIMULATED__OUTPUT_TOKENS="20000")
        await roles.ready()
        for subject, stream in (("infer.auto", False), ("infer.auto", True), ("infer.simulated", False)):
            assert (await roles.answer(subject, stream=stream)).code == "payload_too_large"
        assert not (await roles.answer(max_tokens=5)).code


async def test_a_question_that_fits_only_without_the_managers_headers_takes_no_place_for_good(tmp_path: Path) -> None:
    """The caller's message is just small enough for the server, and with what the Manager adds it is not."""
    async with roles_on_a_server(tmp_path, "max_payload: 64KB\n") as roles:
        roles.manager(BULLPEN_MANAGER__MAX_WAITING="0")
        roles.worker("w-1", BULLPEN_SIMULATED__MAX_CONCURRENCY="2", BULLPEN_SIMULATED__MODELS=SPACIOUS)
        await roles.ready()
        room = roles.bus.max_payload - len(json.dumps({"prompt": ""}))
        told = await roles.answered(await roles.ask_many(5, prompt="x" * (room - 10)))
        assert {question.code for question in told} == {"payload_too_large"}
        assert unwell(await roles.answered(await roles.ask_many(2))) == []


async def test_a_question_of_nearly_the_largest_size_is_booked(tmp_path: Path) -> None:
    """Its record holds the question and more, and would be larger than the server takes."""
    async with roles_on_a_server(tmp_path, f'max_payload: 64KB\njetstream {{store_dir: "{tmp_path}"}}\n') as roles:
        roles.manager()
        roles.worker("w-1", BULLPEN_SIMULATED__MODELS=SPACIOUS)
        await roles.ready()
        await make_stream(roles.bus, max_bytes=1 << 20)
        assert not (await roles.answer(prompt="x" * (roles.bus.max_payload - 600))).code
        await eventually(lambda: booked(roles.bus, 1))


HOSTILE = [
    b"PUB infer.auto \xff\xfe\xfd 2\r\nhi\r\n",
    b"PUB infer.\xff 2\r\nhi\r\n",
    b"PUB infer.auto infer.auto 2\r\nhi\r\n",
    b"PUB infer.auto infer.simulated 2\r\nhi\r\n",
    b"PUB infer.simulated infer.auto 2\r\nhi\r\n",
    b"PUB infer.auto $JS.API.STREAM.PURGE.TELEMETRY 2\r\nhi\r\n",
    b"PUB infer.simulated $JS.API.STREAM.DELETE.TELEMETRY 2\r\nhi\r\n",
    b"PUB infer.auto worker.control.w-1 2\r\nhi\r\n",
    b"PUB infer.auto _INBOX.> 2\r\nhi\r\n",
    b"PUB infer.auto _INBOX.*.x 2\r\nhi\r\n",
    b"PUB infer.auto _INBOX. 2\r\nhi\r\n",
    b"PUB infer.auto _INBOX..x 2\r\nhi\r\n",
    b"PUB infer.auto _INBOX.\x00 2\r\nhi\r\n",
    b"PUB worker.heartbeat \xff 2\r\nhi\r\n",
    b"PUB worker.heartbeat 4\r\nnull\r\n",
    b"PUB worker.control.w-1 \xff 2\r\nhi\r\n",
    b"PUB manager.control.m-1 $JS.API.INFO 2\r\n{}\r\n",
    b"PUB mesh.sys.disconnect \xff 2\r\n[]\r\n",
    b"PUB infer.cancel \xff 2\r\nhi\r\n",
    b'PUB infer.status $JS.API.INFO 16\r\n{"task_id": null}\r\n',
    b"PUB $SRV.PING \xff 0\r\n\r\n",
    b"HPUB infer.auto 19 21\r\nNATS/1.0 \xff\xff\xff\r\n\r\n\r\nhi\r\n",
    b"HPUB infer.auto 22 24\r\nNATS/1.0\r\nA: \xff\xff\xff\xff\xff\r\n\r\nhi\r\n",
    b"HPUB worker.heartbeat 16 18\r\nNATS/1.0 abc\r\n\r\nhi\r\n",
    b"HPUB infer.auto 38 40\r\nNATS/1.0\r\nBullpen-Deadline: -9999999\r\n\r\nhi\r\n",
]
"""Each as bytes on a socket, because no client would send it."""


def shout(port: int, messages: list[bytes]) -> None:
    """Says all that, each over a connection of its own, until the server has read it or ends the connection."""
    for message in messages:
        with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            raw.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n' + message + b"PING\r\n")
            heard = b""
            while b"PONG" not in heard and (piece := raw.recv(4096)):
                heard += piece


async def hears(roles: Roles, subject: str) -> bool:
    """Whether a role hears what is said to it now: one that became deaf reconnects a second later."""
    try:
        return bool(from_json((await roles.bus.request(subject, b'{"op": "status"}', timeout=5)).data))
    except BusError:
        return False


async def test_hostile_messages_deafen_no_role_and_reach_nothing(roles: Roles, nats: NatsServer) -> None:
    """Bytes that are not UTF-8, replies to JetStream and to roles, sizes that are not true."""
    roles.manager()
    for name in ("w-1", "w-2"):
        roles.worker(name)
    await roles.ready()
    await make_stream(roles.bus, max_bytes=1 << 20)
    replies: list[bytes] = []
    for subject in ("infer.>", "worker.>", "manager.>", "$JS.>"):
        await roles.bus.subscribe_inline(subject, lambda message: replies.append(message.data))
    await roles.bus.flush(20)

    async def nobody_is_deafened() -> bool:
        """On a busy machine a connection may break for another reason: then once more."""
        await asyncio.to_thread(shout, nats.port, [*HOSTILE, b"PUB infer.auto 99999999\r\n"])
        everybody = ("manager.control.m-1", "worker.control.w-1", "worker.control.w-2")
        return all([await hears(roles, subject) for subject in everybody])

    await eventually(nobody_is_deafened, timeout=60)
    assert unwell(await roles.answered(await roles.ask_many(50))) == []
    for subject in ("infer.simulated", "infer.simulated.w.w-1", "infer.simulated.w.w-2"):
        assert not (await roles.answer(subject)).code
    assert roles.running == {"m-1", "w-1", "w-2"}
    await eventually(lambda: booked(roles.bus, 50))
    assert [data for data in replies if b"bullpen.response" in data or b"bullpen.error" in data] == []
