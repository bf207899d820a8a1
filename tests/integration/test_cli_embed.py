"""`bullpen embed`: what stands on the screen, and its exit codes."""

import json

from tests.cli import bullpen
from tests.mesh import SmallMesh


async def test_embed_prints_vectors(mesh: SmallMesh, nats_server: str) -> None:
    await mesh.manager()
    await mesh.worker("w-1")
    env = {"NATS_URL": nats_server}
    told = await bullpen("embed", "one", "two", "--dimensions", "8", "--json", env=env)
    assert (told.code, told.err) == (0, "")
    answer = json.loads(told.out)
    assert [len(vector) for vector in answer["embeddings"]] == [8, 8]
    short = await bullpen("embed", stdin=b"one\n\ntwo\n", env=env)
    assert [line.endswith("… (256 numbers)") for line in short.out.splitlines()] == [True, True]
    wrong = await bullpen("embed", "one", "--model", "nobody", "--json", env=env)
    assert (wrong.code, json.loads(wrong.out)["error"]["code"]) == (1, "no_such_model")
    assert (await bullpen("embed", stdin=b" \n", env=env)).code == 2
