"""What becomes of the stream with which a server answers."""

from tests.backends.ollama.stand_in import Scripted, Start, job, line
from workers.base import Done


async def test_a_model_whose_server_reports_probabilities_has_the_capability(provider: Scripted, start: Start) -> None:
    top = [{"token": "Paris", "logprob": -0.1, "bytes": [80]}]
    told = [{"token": "Paris", "logprob": -0.1, "bytes": [80], "top_logprobs": top}, {"token": ".", "logprob": -2}]
    backend = await start(models=[{"name": "m"}])
    provider.script = [line(content="Paris."), line(done=True)]
    assert (await backend.infer(job(backend))).logprobs == ()
    assert "logprobs" not in backend.models()[0].capabilities
    provider.script = [
        {**line(thinking="Hm."), "logprobs": told},
        {**line(content="Paris."), "logprobs": told},
        line(done=True),
    ]
    assert (await backend.infer(job(backend))).logprobs == (-0.1, -2.0)
    assert "logprobs" in backend.models()[0].capabilities


async def test_thoughts_are_not_shown(provider: Scripted, start: Start) -> None:
    provider.script = [line(thinking="Hm."), line(content="Paris."), {**line(done=True), "done_reason": "length"}]
    backend = await start()
    answer = await backend.infer(job(backend))
    assert (answer.text, answer.done.finish_reason) == ("Paris.", "length")


async def test_the_end_is_the_end_also_when_the_connection_stays_open(provider: Scripted, start: Start) -> None:
    backend = await start()
    provider.failure.hang_after = 6
    provider.script = [line(content="Paris."), {**line(done=True), "eval_count": 3}, *[line()] * 5]
    *_, last = [piece async for piece in backend.stream(job(backend))]
    assert isinstance(last, Done)
    assert last.completion_tokens == 3
