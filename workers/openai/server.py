"""The server: which models it lists, and whether this API is where the config says.

A server may have no list, or forbid it, and still chat: then nothing is known about it until its first real answer.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

import httpx2
import openai
from openai.types import Model

from contracts import BullpenError, ErrorCode
from workers.base.provider.connection import CONNECT_TIMEOUT, UNUSABLE, Redirected, place
from workers.openai.address import other_addresses
from workers.openai.catalogue import is_named
from workers.openai.listing import chats, entries_of, with_kinds

NO_LIST = (404, 405, 501)
"""HTTP statuses of a server without a list of models."""
MAY_HAVE_NONE = (*NO_LIST, 400, 403)
"""HTTP statuses that also mean that, from a server that never sent a list: some servers forbid the list alone."""


class Elsewhere(BullpenError):
    """The server has this API at another address than the config says."""

    def __init__(self, where: str, right: str) -> None:
        self.what = f"{where} has this API at another address"
        self.cure = f"set base_url, or OPENAI_BASE_URL, to {right}"
        super().__init__(ErrorCode.UPSTREAM_ERROR, f"{self.what}: {self.cure}", fault="worker")


class Server:
    def __init__(self, client: openai.AsyncOpenAI, told: Callable[[Exception], BullpenError]) -> None:
        """`told`: turns an error of the client into the error that it means to the mesh."""
        self._client = client.with_options(timeout=CONNECT_TIMEOUT)
        self._told = told
        self._has_list = False
        """Whether the server has ever sent a list of models."""

    @property
    def _base(self) -> str:
        return str(self._client.base_url)

    async def listed(self, *, look_around: bool = False) -> Sequence[Model] | None:
        """The server's models; None: it has no list. Raises `BullpenError` when it cannot answer, or the API is
        elsewhere.

        `look_around`: without a list, also look for this API at other addresses of the server.
        """
        try:
            listed = await self._list()
        except Redirected as error:
            raise self._elsewhere(error.right_address(self._base)) from error
        except (openai.OpenAIError, httpx2.HTTPError, *UNUSABLE) as error:
            if isinstance(error.__cause__, Redirected):
                raise self._elsewhere(error.__cause__.right_address(self._base)) from error
            if not self._may_have_no_list(error):
                raise self._told(error) from error
            listed = None
        if listed is None and look_around and (right := await self._right_address()) is not None:
            raise self._elsewhere(right)
        self._has_list = self._has_list or listed is not None
        return listed

    async def with_kinds(self, listed: Sequence[Model]) -> Sequence[Model]:
        """The models with the kinds from LM Studio's own list, where they are not known otherwise."""
        if any(chats(model) is None for model in listed):
            with suppress(openai.OpenAIError, httpx2.HTTPError, BullpenError, *UNUSABLE):
                url = self._client.base_url.copy_with(path="/api/v0/models")
                return with_kinds(listed, await self._client.get(str(url), cast_to=object))
        return listed

    async def _list(self, address: str = "") -> Sequence[Model] | None:
        """A list of models; None: the answer is no list."""
        entries = entries_of(await self._client.get(f"{address}/models", cast_to=object))
        return None if entries is None else [model for model in entries if is_named(model)]

    def _may_have_no_list(self, error: Exception) -> bool:
        """Whether the server may chat although it has no list. A server that sent a list before and now refuses it is
        unwell.
        """
        statuses = NO_LIST if self._has_list else MAY_HAVE_NONE
        return status_of(error) in statuses or isinstance(error, UNUSABLE)

    async def _right_address(self) -> str | None:
        """Another address on the server that has this API; None: no usual address has it."""
        for other in other_addresses(self._base):
            try:
                if await self._list(other) is not None:
                    return other
            except (openai.AuthenticationError, openai.PermissionDeniedError):
                return other
            except (openai.OpenAIError, httpx2.HTTPError, BullpenError, *UNUSABLE):
                continue
        return None

    def _elsewhere(self, right: str) -> Elsewhere:
        return Elsewhere(place(self._base), right)


def status_of(error: Exception) -> int | None:
    """The HTTP status of an error; None when it has none."""
    return error.status_code if isinstance(error, openai.APIStatusError) else None
