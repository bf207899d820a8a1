"""What HTTP says of a failure: whether to ask again."""

import pytest

from contracts import BullpenError, ErrorCode
from gateway.dialects import Refused
from gateway.dialects.anthropic_messages import AnthropicMessages
from gateway.http import Failure

FINAL = {"x-should-retry": "false"}
LATER = {"retry-after": "2", "retry-after-ms": "1500"}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Refused("no key", None, 401, "invalid_api_key"), FINAL),  # Claude Code repeats it ten times otherwise
        (Refused("not for this key", "model", 403, "model_not_allowed"), FINAL),
        (Refused("there is none", "model", 404, "model_not_found"), FINAL),
        (BullpenError(ErrorCode.BUDGET_EXCEEDED, "spent"), FINAL),
        (BullpenError(ErrorCode.UPSTREAM_ERROR, "failed"), FINAL),
        (RuntimeError("a bug"), FINAL),
        (BullpenError(ErrorCode.NO_WORKER, "none", retry_after_ms=1500), LATER),
        (BullpenError(ErrorCode.RATE_LIMITED, "wait", retry_after_ms=1500), LATER),
    ],
)
def test_clients_ask_again_only_what_may_be_asked_again(error: Exception, told: dict[str, str]) -> None:
    headers = Failure.of(error).answer(AnthropicMessages(), "r-1", {}).headers
    assert {name: headers[name] for name in ("x-should-retry", *LATER) if name in headers} == told
