"""The trace of a stream that was rerouted, as a collector gets it from real processes."""

from pathlib import Path

import pytest

from tests.collector import ASKER, STORY, rerouted_stream
from tests.servers import NatsServer

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180)]

TREE = """\
gateway: http
  manager: request
    manager: choice
    manager: attempt ✗
    manager: choice
    manager: attempt
      worker: worker
        worker: queue
        worker: chat simulated
    manager: books"""


async def test_a_reroute_reads_as_two_attempts_the_failed_one_with_its_reason(tmp_path: Path, nats: NatsServer) -> None:
    text, tree = await rerouted_stream(tmp_path, nats.url)
    assert text == STORY
    assert str(tree) == TREE
    http, request = tree.span, tree.parts[0].span
    first, second = tree.all("attempt")
    assert http.parent == ASKER.split("-")[2]
    assert http.facts["url.path"] == "/v1/chat/completions"
    assert (request.error, request.facts["bullpen.attempts"]) == ("", 2)
    assert first.facts["error.type"] == "no_worker"
    assert first.error == "w-1 went away (disconnected)"
    assert (first.facts["bullpen.worker_id"], second.facts["bullpen.worker_id"]) == ("w-1", "w-2")
    assert (first.facts["bullpen.outcome"], second.facts["bullpen.outcome"]) == ("uncertain", "ok")
    assert first.facts["bullpen.worker_lost"] is True, "its own spans died with it, and the Manager's says so"
    assert "bullpen.worker_lost" not in second.facts
    assert first.end <= second.start
    assert [choice.facts["bullpen.why"] for choice in tree.all("choice")] == ["first", "failover"]
    assert tree.all("books")[0].facts == {"bullpen.rows": 3, "bullpen.in_stream": True}
    (worker,), (call,) = tree.all("worker"), tree.all("chat simulated")
    assert worker.facts["bullpen.attempt"] == 2
    assert call.events == ("first token",)
    assert worker.start <= call.start < call.end <= worker.end
    for span in (request, second, call):
        assert span.facts["gen_ai.operation.name"] == "chat"
        assert span.facts["gen_ai.provider.name"] == "simulated"
        assert span.facts["gen_ai.usage.output_tokens"] > 0
    assert not [fact for fact in {**request.facts, **call.facts} if "messages" in fact], "nobody asked for the words"
