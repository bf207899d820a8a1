"""A worker's heartbeat: its state, models and load, every second and at once when they change.

Sent on the connection that serves requests: alive means able to serve.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from contracts.base import Money, OpenModel
from contracts.subjects import is_name

Capability = Literal["chat", "stream", "tools", "vision", "json", "logprobs", "embed", "prefill"]
"""`prefill`: can go on after a given start of the answer, so that another worker's stream goes on unbroken."""
WorkerState = Literal["starting", "ready", "degraded", "draining", "stopped"]


def _name(text: str) -> str:
    if not is_name(text):
        raise PydanticCustomError("name", "should be 1 to 64 characters of A-Z a-z 0-9 _ -")
    return text


Name = Annotated[str, AfterValidator(_name), Field(json_schema_extra={"pattern": "^[A-Za-z0-9_-]{1,64}$"})]

Count = Annotated[int, Field(ge=0)]

MILLION = Decimal(1_000_000)


PerMillion = Annotated[Money, Field(ge=0, max_digits=15)]
"""No more digits than a JSON number carries unchanged: a price is the same at both ends of the wire."""


class Rates(OpenModel):
    """US dollars per million tokens."""

    input_per_mtok: PerMillion
    output_per_mtok: PerMillion
    cached_input_per_mtok: PerMillion | None = None
    """Of the prompt's tokens that the provider had in its cache. None: they cost as any other."""
    cache_write_per_mtok: PerMillion | None = None
    """Of the prompt's tokens that it wrote to its cache, in place of the input price. None: as any other."""


class LongPromptRates(Rates):
    """Of a whole request whose prompt is longer than the provider's usual price is for."""

    above_prompt_tokens: int


class Price(Rates):
    """What a model costs."""

    long_prompts: LongPromptRates | None = None
    currency: Literal["USD"] = "USD"

    def cost(
        self,
        prompt_tokens: float,
        completion_tokens: float,
        cached_tokens: float = 0,
        cache_write_tokens: float = 0,
    ) -> Decimal:
        """What so many tokens cost, in US dollars, exactly. Cached and written ones are among the prompt's."""
        rates: Rates = self
        if self.long_prompts is not None and prompt_tokens > self.long_prompts.above_prompt_tokens:
            rates = self.long_prompts
        parts = (
            (prompt_tokens - cached_tokens - cache_write_tokens, rates.input_per_mtok),
            (cached_tokens, rates.cached_input_per_mtok),
            (cache_write_tokens, rates.cache_write_per_mtok),
            (completion_tokens, rates.output_per_mtok),
        )
        return (
            sum(
                ((rates.input_per_mtok if rate is None else rate) * Decimal(str(n)) for n, rate in parts if n),
                Decimal(0),
            )
            / MILLION
        )


def _known(capabilities: Any) -> Any:
    """Without capabilities that only a newer version knows."""
    return (
        [one for one in capabilities if one in get_args(Capability)]
        if isinstance(capabilities, list | tuple)
        else capabilities
    )


class ModelCard(OpenModel):
    """One model that a worker serves."""

    model_id: str
    aliases: tuple[str, ...] = ()
    context_window: int
    """Tokens, prompt and answer together."""
    capabilities: Annotated[tuple[Capability, ...], BeforeValidator(_known)] = ("chat", "stream")
    price: Price | None = None
    """None: unknown."""
    local: bool
    """True when nothing leaves the machine and no bill comes."""
    stand_in: bool = False
    """True when it only answers as long as no other chat model is ready."""
    trouble: str = ""
    """Why this model hardly answers at present; empty when it does. The worker's other models are not concerned."""

    def answers_to(self, name: str) -> bool:
        return name == self.model_id or name in self.aliases


class Rate(OpenModel):
    rpm_limit: int | None = None
    rpm_left: int | None = None
    tpm_limit: int | None = None
    tpm_left: int | None = None
    resets_in_ms: int | None = None


class Gpu(OpenModel):
    name: str
    memory_used: int
    memory_total: int
    utilization: float


class Resources(OpenModel):
    """Bytes, and percent of one core. Read from the cgroup where there is one."""

    cpu_percent: float = 0.0
    cpu_limit: float | None = None
    """Cores this worker may use."""
    memory_used: int = 0
    memory_limit: int | None = None
    gpus: tuple[Gpu, ...] = ()


class Heartbeat(OpenModel):
    schema_: Literal["bullpen.heartbeat.v1"] = Field(default="bullpen.heartbeat.v1", alias="schema")
    worker_id: Name
    backend: Name
    models: tuple[ModelCard, ...]
    state: WorkerState
    reason: str = ""
    """Why the state is not `ready`, in words and with the cure; progress while starting."""
    inflight: Count = 0
    queued: Count = 0
    capacity: Count = 1
    """Requests computed at once. 0: it takes nothing now."""
    rate: Rate | None = None
    resources: Resources = Resources()
    tokens_per_second: float | None = None
    """Of the last requests, per request, while generating."""
    ewma_ms: Annotated[float, Field(ge=0)] | None = None
    """Moving average of the service time of one request."""
    epoch: Annotated[str, Field(coerce_numbers_to_str=True)]
    """Changes with every start: a restarted worker never owns its predecessor's tasks. Sorts by time."""
    seq: int
    interval_ms: Annotated[int, Field(gt=0)] = 1000
    pause_ms: Count = 0
    """For so long no heartbeat may come although the worker is well: some libraries stop it while they load a model."""
    started_at: datetime
    sent_at: int | None = None
    """Unix milliseconds on the worker's own clock, from which a Manager learns how far the clocks differ."""
    connection: str | None = None
    """The connection it was sent on, `<server id>:<client number>`, as the server's connect and disconnect events name
    it. A predecessor of the same name had another one."""
    host: str = ""
    version: Annotated[str, Field(coerce_numbers_to_str=True)] = ""
    config_digest: str = ""
