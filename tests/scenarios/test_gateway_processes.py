"""Several gateways at one port, as `processes` in its config has it."""

from pathlib import Path

import aiohttp
import pytest
from pydantic_core import from_json

from bus import Message
from client.client import GATEWAY_SERVICE
from tests.gateway import PATIENT
from tests.roles import Roles, roles_on_a_server
from tests.servers import free_port
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180)]


async def heard(roles: Roles) -> set[str]:
    """The ids of the gateways that have answered a ping by now."""
    messages: list[Message] = []
    with roles.bus.listen(messages.append) as inbox:
        await roles.bus.publish(f"$SRV.PING.{GATEWAY_SERVICE}", b"", reply=inbox.subject)
        await eventually(lambda: len(messages) >= 2, timeout=2)
    return {from_json(message.data)["id"] for message in messages}


async def test_processes_share_a_port_and_leave_together(tmp_path: Path) -> None:
    port = free_port()
    env = {"BULLPEN_GATEWAY__LISTEN": f"127.0.0.1:{port}", "BULLPEN_GATEWAY__PROCESSES": "2"}
    async with roles_on_a_server(tmp_path, "jetstream {store_dir: %s}" % (tmp_path / "store")) as roles:
        roles.gateway("g-1", **env)

        async def both() -> bool:
            return await heard(roles) == {"g-1", "g-1-2"}

        await eventually(both, timeout=60)
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/v1/models") as answer:
            assert answer.status == 200
        roles.stop("g-1")
        await eventually(lambda: roles.ended("g-1") == 0, timeout=PATIENT)
        with pytest.raises(aiohttp.ClientConnectorError):
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/"):
                pass
