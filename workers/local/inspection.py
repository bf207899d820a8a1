"""Asks llama.cpp about the model that it has loaded, over its HTTP port."""

import json
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

BEGUN = "The answer begins"
WITHIN = 10.0
"""Seconds in which llama.cpp has to answer."""


class Inspection:
    """Asks one server. Its methods raise `OSError` and `ValueError` when the server does not answer."""

    def __init__(self, address: str, key: str) -> None:
        self._address = urlsplit(address)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def window(self) -> int:
        """Tokens of one conversation."""
        window: int = self._ask("GET", "/slots")[0]["n_ctx"]
        return window

    def goes_on(self) -> bool:
        """Whether the model can continue a begun answer: then its prompt ends with the answer's start.

        It cannot if it would take the start for thoughts. Older versions of llama.cpp refuse this question for models
        that think.
        """
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": BEGUN}]
        prompt = str(self._ask("POST", "/apply-template", {"messages": messages}).get("prompt", ""))
        return prompt.endswith(BEGUN) and prompt.rfind("<think>") <= prompt.rfind("</think>")

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        host, port = self._address.hostname or "", self._address.port
        with closing(HTTPConnection(host, port, timeout=WITHIN)) as connection:
            connection.request(method, path, json.dumps(body), self._headers)
            return json.load(connection.getresponse())
