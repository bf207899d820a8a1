"""A worker's heartbeat: its state, models and load, every second and at once when they change.

Sent on the connection that serves requests: alive means able to serve.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from contracts.base import Epoch, Label, ModelName, Money, OpenModel, Time, Tokens, Whole, WholeMilliseconds, Words
from contracts.errors import BullpenError, ErrorCode
from contracts.subjects import WORKER_HEARTBEAT, Kind, is_name, worker_of_heartbeat

Capability = Literal[
    "chat", "stream", "tools", "vision", "json", "logprobs", "embed", "prefill", "audio", "file", "reasoning"
]
"""`prefill`: can go on after a given start of the answer, so that another worker's stream goes on unbroken."""
ABILITY: dict[Kind, Capability] = {"infer": "chat", "embed": "embed"}
"""The capability that each kind of request needs."""
WorkerState = Literal["starting", "ready", "degraded", "draining", "stopped"]
NO_NAME = "should be 1 to 64 characters of A-Z a-z 0-9 _ -"


def _name(text: str) -> str:
    if not is_name(text):
        raise PydanticCustomError("name", NO_NAME)
    return text


Name = Annotated[str, AfterValidator(_name), Field(json_schema_extra={"pattern": "^[A-Za-z0-9_-]{1,64}$"})]

MOST_BYTES = 1 << 20
"""Bytes of one heartbeat: enough for a thousand models that are described at length."""
MOST_MODELS = 1000
MOST_ALIASES = 64
MOST_GPUS = 64
Count = Annotated[int, Field(ge=0, le=1_000_000)]
LONGEST_INTERVAL_MS = 600_000
LONGEST_PAUSE_MS = 86_400_000

MILLION = Decimal(1_000_000)


PerMillion = Annotated[Money, Field(ge=0, le=1_000_000, max_digits=15)]
"""As many digits as a JSON number carries unchanged: a price is the same at both ends of the wire."""


class Rates(OpenModel):
    """US dollars per million tokens."""

    input_per_mtok: PerMillion
    output_per_mtok: PerMillion
    cached_input_per_mtok: PerMillion | None = None
    """For prompt tokens that the provider had in its cache. Null: the input price."""
    cache_write_per_mtok: PerMillion | None = None
    """For prompt tokens that the provider wrote to its cache, in place of the input price. Null: the input price."""


class LongPromptRates(Rates):
    """Prices of a whole request whose prompt is longer than `above_prompt_tokens`."""

    above_prompt_tokens: Tokens


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
        """The cost of so many tokens in US dollars, exactly. Cached and written tokens are part of the prompt's."""
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
    """Leaves out capabilities that only a newer version knows."""
    return (
        [one for one in capabilities if one in get_args(Capability)]
        if isinstance(capabilities, list | tuple)
        else capabilities
    )


class ModelCard(OpenModel):
    """One model that a worker serves."""

    model_id: ModelName
    aliases: Annotated[tuple[ModelName, ...], Field(max_length=MOST_ALIASES)] = ()
    context_window: Tokens
    """Tokens, prompt and answer together."""
    capabilities: Annotated[tuple[Capability, ...], BeforeValidator(_known)] = ("chat", "stream")
    price: Price | None = None
    """Null: unknown."""
    local: bool
    """True when no data leaves the machine and no bill comes."""
    stand_in: bool = False
    """True when the model answers only while no other chat model is ready."""
    trouble: Words = ""
    """Why this model is left alone at present; empty when it is not. The worker's other models are not concerned."""
    unsupported: tuple[str, ...] = ()
    """Parameters that its provider refuses (`temperature`, `seed`): the model answers without them."""

    def answers_to(self, name: str) -> bool:
        return name == self.model_id or name in self.aliases

    def serves(self, kind: Kind) -> bool:
        """Whether the model may be asked for under this name."""
        return ABILITY[kind] in self.capabilities


class Rate(OpenModel):
    rpm_limit: Whole | None = None
    rpm_left: Whole | None = None
    tpm_limit: Whole | None = None
    tpm_left: Whole | None = None
    resets_in_ms: WholeMilliseconds | None = None


Percent = Annotated[float, Field(ge=0, le=1_000_000)]
"""Percent of one core, so more than 100 where there are several."""


class Gpu(OpenModel):
    name: Label
    memory_used: Whole
    memory_total: Whole
    utilization: Percent


class Resources(OpenModel):
    """Bytes, and percent of one core. Read from the cgroup where there is one."""

    cpu_percent: Percent = 0.0
    cpu_limit: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """Cores that this worker may use."""
    memory_used: Whole = 0
    memory_limit: Whole | None = None
    gpus: Annotated[tuple[Gpu, ...], Field(max_length=MOST_GPUS)] = ()


class Heartbeat(OpenModel):
    schema_: Literal["bullpen.heartbeat.v1"] = Field(default="bullpen.heartbeat.v1", alias="schema")
    worker_id: Name
    backend: Name
    models: Annotated[tuple[ModelCard, ...], Field(max_length=MOST_MODELS)]
    state: WorkerState
    reason: Words = ""
    """Why the state is not `ready`, in words and with the cure; while starting, how far it is."""
    inflight: Count = 0
    queued: Count = 0
    capacity: Count = 1
    """Requests computed at once. 0: the worker takes nothing now."""
    rate: Rate | None = None
    resources: Resources = Resources()
    tokens_per_second: Annotated[float, Field(ge=0, le=1_000_000_000)] | None = None
    """Mean of the last requests, each while it was generating."""
    ewma_ms: Annotated[float, Field(ge=0, le=86_400_000)] | None = None
    """Moving average of the service time of one request."""
    epoch: Epoch
    """Changes with every start: a restarted worker never owns its predecessor's attempts. Sorts by time."""
    seq: Whole
    interval_ms: Annotated[int, Field(gt=0, le=LONGEST_INTERVAL_MS)] = 1000
    pause_ms: Annotated[int, Field(ge=0, le=LONGEST_PAUSE_MS)] = 0
    """For so long no heartbeat may come although the worker is well: some libraries stop the whole process while they
    load a model.
    """
    started_at: Time
    sent_at: Whole | None = None
    """Unix milliseconds on the worker's own clock, from which a Manager learns how far the clocks differ."""
    connection: Annotated[str, Field(max_length=256)] | None = None
    """The connection that the heartbeat was sent on, `<server id>:<client number>`, as the server's connect and
    disconnect events name it. A predecessor of the same name had another one.
    """
    host: Label = ""
    version: Annotated[Label, Field(coerce_numbers_to_str=True)] = ""
    config_digest: Label = ""


def read_heartbeat(data: bytes, subject: str = WORKER_HEARTBEAT) -> Heartbeat:
    """Reads a heartbeat. Raises `BullpenError(invalid_request)` that names the field.

    On a worker's own subject, a heartbeat of another worker is refused.
    """
    if len(data) > MOST_BYTES:
        raise _refused("heartbeat", f"has {len(data)} bytes, more than {MOST_BYTES}")
    try:
        beat = Heartbeat.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        why = NO_NAME if first["type"] == "string_pattern_mismatch" else first["msg"].lower()
        raise _refused(".".join(map(str, first["loc"])) or "heartbeat", why) from None
    speaker = worker_of_heartbeat(subject)
    if subject != WORKER_HEARTBEAT and speaker != (beat.backend, beat.worker_id):
        raise _refused("worker_id", "is not the one in the subject")
    return beat


def _refused(field: str, why: str) -> BullpenError:
    return BullpenError(ErrorCode.INVALID_REQUEST, f"{field} {why}", field=field)
