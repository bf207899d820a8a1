"""What a decision costs: the Manager's own `rank` among many live workers, against looking at every one of them.

Workers of ten models beat their hearts; each request is judged, one worker wins. Of more than a dozen workers the
Manager draws a few by lot for each request; `everybody` is the same code over all of them.
"""

import random
import time
from datetime import UTC, datetime
from statistics import median, quantiles
from typing import cast

from benchmarks import results
from bus import Bus
from contracts import Heartbeat, InferenceRequest, ModelCard, Price
from manager.config import ManagerConfig
from manager.metrics import Metrics
from manager.request.shared_state import SharedState
from manager.routing.query import RoutingQuery

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
PRICE = Price.model_validate({"input_per_mtok": "0.1", "output_per_mtok": "0.4"})
SIZES = (10, 100, 1000, 10_000)
MODELS = 10


def run(decisions: int) -> None:
    """Prints microseconds per decision for meshes of several sizes, writes `results/ranking.json`."""
    figures: dict[str, dict[str, float]] = {}
    print("workers   median us   p99 us   everybody us")
    for size in SIZES:
        shared = _shared(size)
        micros = _timed(shared, decisions)
        everybody = median(_timed(shared, max(10, decisions // size), all_of_them=True))
        figures[str(size)] = {"median_us": median(micros), "p99_us": quantiles(micros, n=100)[98], "all_us": everybody}
        print(f"{size:7}   {median(micros):9.1f}   {figures[str(size)]['p99_us']:6.1f}   {everybody:12.0f}")
    path = results.write("ranking", figures, does_not_prove=["what telling it on metrics.route costs"])
    print(f"written to {path}")


def _timed(shared: SharedState, decisions: int, *, all_of_them: bool = False) -> list[float]:
    question = RoutingQuery.of(InferenceRequest(prompt="What is the capital of France?"))
    micros: list[float] = []
    for _ in range(decisions):
        begun = time.perf_counter()
        ranking = shared.rank(question, "balanced", shared.registry if all_of_them else None)
        micros.append((time.perf_counter() - begun) * 1e6)
        assert ranking.winner is not None
    return micros


def _shared(size: int) -> SharedState:
    shared = SharedState(cast("Bus", None), ManagerConfig(), "m-1", cast("Metrics", None), clock=time.monotonic)
    rng = random.Random(1)
    for number in range(size):
        shared.registry.hear(_beat(number, rng), shared.now(), wall=time.time())
    return shared


def _beat(number: int, rng: random.Random) -> Heartbeat:
    card = ModelCard(model_id=f"model-{number % MODELS}", context_window=32_000, price=PRICE, local=bool(number % 2))
    return Heartbeat(
        worker_id=f"w-{number}",
        backend="simulated",
        models=(card,),
        state="ready",
        inflight=rng.randrange(4),
        capacity=8,
        ewma_ms=rng.uniform(100, 2000),
        epoch="1",
        seq=1,
        started_at=BEGAN,
        host="h",
        version="1",
        config_digest="",
    )
