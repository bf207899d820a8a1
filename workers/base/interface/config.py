"""What every backend's `config.yaml` may say; a backend adds its own keys in a subclass."""

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
"""What a question to a provider may have that its model refuses."""


class ModelConfig(ConfigModel):
    """One model to serve."""

    name: ModelName
    """The model's name as the provider knows it; the `model_id` of its answers."""
    aliases: tuple[ModelName, ...] = ()
    """Other names a caller may use."""
    context_window: Positive = 8192
    """Tokens, prompt and answer together."""
    capabilities: tuple[Capability, ...] = ("chat", "stream")
    price: Price | None = None
    """US dollars per million tokens. Left out: the provider's public one, if the table has it; null: unknown."""
    max_tokens: Positive | None = None
    """The most tokens one answer may have; a request may ask for fewer."""
    reasons: bool = False
    """It thinks before it answers, and may be silent for minutes meanwhile: five times the backend's time-outs."""
    first_token_timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds of silence before its first token, instead of the backend's; exactly these, whether it reasons or not."""
    next_token_timeout: Annotated[float, Field(gt=0)] | None = None
    """The same between tokens."""
    stand_in: bool = False
    """Answers only while no other chat model is ready, unless a request names this model or its backend."""
    options: JsonObject = Field(default_factory=dict)
    """Passed to the provider as they are."""
    unsupported: tuple[Parameter, ...] = ()
    """Parameters that the provider refuses for it: `temperature`, `seed` and the like are left out, and the answer says
    so; a request that needs one of the others goes to another model."""

    def card(self, *, local: bool, provider: str | None = None) -> ModelCard:
        """`provider`: whose public price it has when none is told here."""
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
    """The keys that every backend shares. Times are in seconds unless the name says `_ms`."""

    models: tuple[ModelConfig, ...] = ()
    max_concurrency: Positive = 4
    """Requests computed at once."""
    max_queue: Annotated[int, Field(ge=0)] | None = None
    """Requests waiting inside the worker; as many as `max_concurrency` when left out."""
    price_list: str | None = None
    """Whose public prices count for models that have none here: a provider of the table (`bullpen prices --all`), or
    `none`. Left out: the provider's own, when it is the provider itself that is asked."""
    max_tokens: Positive | None = None
    """The most tokens of one answer, for models that don't set their own."""
    requests_per_minute: Positive | None = None
    """Begun in any minute; None: as many as come."""
    tokens_per_minute: Positive | None = None
    """Prompts and answers together, in any minute."""
    account: Name | None = None
    """Workers that name the same one share these two limits, wherever they run; they should tell the same ones."""
    heartbeat_interval: Annotated[float, Field(ge=0.05, le=60)] = 1.0
    health_interval: Annotated[float, Field(ge=0.05, le=3600)] = 5.0
    """How often the backend itself is asked whether it is well."""
    drain_timeout: Annotated[float, Field(ge=0)] = 30.0
    """How long running requests may finish after SIGTERM."""
    first_token_timeout: Annotated[float, Field(gt=0)] = 120.0
    """How long the provider may stay silent before its first token. Whatever it sends ends a silence. A prompt of more
    than 8,192 tokens gets longer: twice as many tokens, twice the time, up to ten times."""
    next_token_timeout: Annotated[float, Field(gt=0)] = 60.0
    """How long the provider may stay silent between tokens."""
    replicas: Positive = 1
    """How many of it `bullpen up` starts when nobody says."""

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
