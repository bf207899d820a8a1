"""Workers that are none: they beat their heart and keep silent, or talk rubbish."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count, cycle

from benchmarks.failover.stage import Json, Stage
from bus import Message, Tasks
from contracts import new_id, utc_now
from contracts import subjects as s

BEAT_EVERY = 0.25

RUBBISH = (
    b"\xff\xfe\x00 not even text",
    b"not JSON",
    b"[]",
    b'{"type":"response","output":"half an ans',
    b'{"type":"response","output":"who is it from?"}',
    b'{"type":"nonsense"}',
    b"null",
)


@asynccontextmanager
async def impostor(stage: Stage, worker_id: str, *, like: str, says: Sequence[bytes] = ()) -> AsyncIterator[None]:
    """Poses as a quick and idle peer of the worker `like`. Answers with each of `says` in turn, or not at all."""
    model = stage.beats[like]
    words = cycle(says) if says else None
    tasks = Tasks(worker_id)

    async def answer(message: Message) -> None:
        if words is not None:
            await stage.bus.publish(message.reply, next(words))

    async def beat(state: str, seq: int) -> None:
        told: Json = json.loads(model.to_bytes())
        told |= {"worker_id": worker_id, "epoch": epoch, "seq": seq, "state": state, "ewma_ms": 1.0, "inflight": 0}
        told |= {"sent_at": round(time.time() * 1000), "started_at": utc_now().isoformat(), "capacity": 256}
        await stage.bus.publish(s.WORKER_HEARTBEAT, json.dumps(told).encode())

    async def keep_beating() -> None:
        for seq in count(1):
            await beat("ready", seq)
            await asyncio.sleep(BEAT_EVERY)

    epoch = new_id()
    listening = await stage.bus.subscribe(s.infer_worker(model.backend, worker_id), answer)
    tasks.start(keep_beating(), "beat")
    try:
        await stage.heard(worker_id)
        yield
    finally:
        await tasks.cancel()
        await beat("stopped", 1 << 30)
        await listening.stop()
