"""The settings that every backend's `config.yaml` may have; a backend adds its own in a subclass."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from config.loader import ConfigModel
from contracts import Capability, JsonObject, ModelCard, Name, Price
from contracts.base import ModelName
from workers.base.prices import NONE, priced, table

Positive = Annotated[int, Field(ge=1)]
Parameter = Literal[
    "temperature",
    "top_p",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "parallel_tool_calls",
    "reasoning_effort",
    "reasoning_content",
    "max_tokens",
    "max_completion_tokens",
    "developer_role",
    "tools",
    "tool_choice",
    "response_format",
]
"""Parts of a question that a provider's model may refuse."""


class ModelConfig(ConfigModel):
    """One model to serve."""

    name: ModelName
    """The model's name as the provider knows it; the `model_id` of its answers."""
    aliases: tuple[ModelName, ...] = ()
    """Other names that callers may use."""
    context_window: Positive = 8192
    """Tokens of the prompt and the answer together."""
    capabilities: tuple[Capability, ...] = ("chat", "stream")
    price: Price | None = None
    """US dollars per million tokens. Left out: the provider's public price, if the table has it; null: unknown."""
    max_tokens: Positive | None = None
    """The most tokens that one answer may have; a request may ask for fewer."""
    reasons: bool = False
    """Whether the model thinks before it answers. It may then be silent for five times the backend's time-outs."""
    first_token_timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds of silence before the model's first token, instead of the backend's time-out. `reasons` does not extend
    them.
    """
    next_token_timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds of silence between tokens, instead of the backend's time-out."""
    stand_in: bool = False
    """Answers only while no other chat model is ready, unless a request names this model or its backend."""
    options: JsonObject = Field(default_factory=dict)
    """Options that are passed to the provider as they are."""
    unsupported: tuple[Parameter, ...] = ()
    """Parameters that the provider refuses for this model. `temperature`, `seed` and the like are left out, and the
    answer says so; a request that needs one of the others goes to another model.
    """

    def card(self, *, local: bool, provider: str | None = None) -> ModelCard:
        """The model's card. `provider`: the provider whose public price applies when the config has no price."""
        able: tuple[Capability, ...] = (*self.capabilities, *(("reasoning",) if self.reasons else ()))
        card = ModelCard(
            model_id=self.name,
            aliases=self.aliases,
            context_window=self.context_window,
            capabilities=tuple(dict.fromkeys(able)),
            price=self.price,
            local=local,
            stand_in=self.stand_in,
        )
        return priced(card, provider, told="price" in self.model_fields_set)


class BackendConfig(ConfigModel):
    """The settings that every backend shares. Times are in seconds unless the name says `_ms`."""

    models: tuple[ModelConfig, ...] = ()
    max_concurrency: Positive = 4
    """Requests that the worker computes at once."""
    max_queue: Annotated[int, Field(ge=0)] | None = None
    """Requests that may wait inside the worker; `max_concurrency` when left out."""
    price_list: str | None = None
    """The provider whose public prices apply to models without a price here: one of the table (`bullpen prices --all`),
    or `none`. Left out: the backend's own provider, when requests go to the provider itself.
    """
    max_tokens: Positive | None = None
    """The most tokens of one answer, for models without a limit of their own."""
    requests_per_minute: Positive | None = None
    """The most requests begun in any minute; none: no limit."""
    tokens_per_minute: Positive | None = None
    """The most tokens of prompts and answers together in any minute; none: no limit."""
    account: Name | None = None
    """Name of the provider account. Workers with the same name share these two limits, on whichever machine; they
    should set the same limits.
    """
    heartbeat_interval: Annotated[float, Field(ge=0.05, le=60)] = 1.0
    health_interval: Annotated[float, Field(ge=0.05, le=3600)] = 5.0
    """Seconds between two checks of the backend's health."""
    drain_timeout: Annotated[float, Field(ge=0)] = 30.0
    """Seconds that running requests have to finish after SIGTERM."""
    first_token_timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds for which the provider may be silent before its first token. Anything that it sends ends a silence. For a
    prompt of more than 8,192 tokens the time grows with its length, up to ten times.
    """
    next_token_timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds for which the provider may be silent between tokens."""
    replicas: Positive = 1
    """Workers of this backend that `bullpen up` starts by default."""

    @field_validator("price_list")
    @classmethod
    def _known(cls, provider: str | None) -> str | None:
        if provider is not None and provider != NONE and provider not in table().providers:
            raise ValueError(f"there are no prices of {provider}: known are {', '.join(table().providers)}, or {NONE}")
        return provider

    @field_validator("models")
    @classmethod
    def _named_once(cls, models: tuple[ModelConfig, ...]) -> tuple[ModelConfig, ...]:
        names = [name for model in models for name in (model.name, *model.aliases)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"model names and aliases must differ: {', '.join(twice)} stands twice")
        return models

    @property
    def queue_limit(self) -> int:
        return self.max_concurrency if self.max_queue is None else self.max_queue
