"""A small Python client over `infer.auto`.

    async with Bullpen.connect() as bp:
        answer = await bp.ask("What is the capital of France?")
        vectors = (await bp.embed(["a text", "another"], model="nomic-embed-text")).embeddings
        async for event in bp.stream("Tell me a story", model="smollm2-135m"):
            ...

When a Manager dies or freezes with a request, the client notices after 1.6 s and sends the request to another one, with
the same idempotency key. It waits for a Manager that is just being restarted. A failed request raises `BullpenError`
with the contract's code. A mesh that cannot be reached raises `BusUnreachable`, a connection lost for good `BusError`.
"""

from bus import BusError, BusUnreachable
from client.client import Bullpen
from client.errors import RequestFailed
from client.exchange import Exchange
from client.jobs import JobResult, JobTicket
from client.live import LiveFigures
from client.question import EmbedOptions, Options
from client.roster import Roster, Sighting
from contracts import BullpenError

__all__ = [
    "Bullpen",
    "BullpenError",
    "BusError",
    "BusUnreachable",
    "EmbedOptions",
    "Exchange",
    "JobResult",
    "JobTicket",
    "LiveFigures",
    "Options",
    "RequestFailed",
    "Roster",
    "Sighting",
]
