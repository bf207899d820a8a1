"""Calls of tools, carried from one provider's words to another's and back."""

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import BullpenError, ChatMessage, ErrorCode, InferenceRequest, JsonObject, ModelCard
from workers.base import Done, Job
from workers.base.provider.call_forms import NO_RESULT, CallRule, translated
from workers.base.provider.chat import BEGIN, chat_messages
from workers.base.provider.plain_turns import plain_turns
from workers.openai.call_rules import GOOGLE, MISTRAL, OPENAI, rule_of

CARD = ModelCard(model_id="m", context_window=8192, local=True)
ANTHROPIC = CallRule(ids="[A-Za-z0-9_-]{1,64}")
GEMINI_NAMES = CallRule(names="[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
RULES = (OPENAI, MISTRAL, GOOGLE, ANTHROPIC, GEMINI_NAMES)
IDS = (
    "call_9f3Kq2LmXw81",
    "toolu_01A09q90qw90lq917835lq9",
    "D681PevKs",
    "chatcmpl-tool-" + "a" * 40,
    "0198b5a2-7c1e-7000-8000-000000000000",
    "functions.weather:0",
    "call|with/odd characters ü",
    "x" * 300,
    "1",
)


def call(call_id: str | None, name: str = "weather", arguments: Any = "{}", **more: Any) -> JsonObject:
    told: JsonObject = {"type": "function", "function": {"name": name, "arguments": arguments}, **more}
    return told if call_id is None else {"id": call_id, **told}


def said(*calls: JsonObject, text: str | None = None) -> ChatMessage:
    return ChatMessage(role="assistant", content=text, tool_calls=calls)


def result(call_id: str | None, text: str = "20", name: str | None = None) -> ChatMessage:
    return ChatMessage(role="tool", tool_call_id=call_id, content=text, name=name)


def user(text: str = "How warm is it?") -> ChatMessage:
    return ChatMessage(role="user", content=text)


def job(*messages: ChatMessage, **asked: Any) -> Job:
    return Job(InferenceRequest(messages=messages, **asked), CARD, 50)


def tool(name: str) -> JsonObject:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def told(rule: CallRule, *messages: ChatMessage) -> tuple[ChatMessage, ...]:
    return translated(job(*messages), rule).job.request.conversation


def shape(messages: tuple[ChatMessage, ...]) -> list[tuple[str, Any]]:
    """Roles, with the calls' ids of an answer, and the id and words of a result."""
    return [
        (m.role, [c["id"] for c in m.tool_calls] if m.tool_calls else (m.tool_call_id, m.text))
        if m.role in ("assistant", "tool")
        else (m.role, m.text)
        for m in messages
    ]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("call_id", IDS)
def test_an_id_of_any_form_fits_and_is_the_same_beside_its_result(rule: CallRule, call_id: str) -> None:
    _, made, answered, _ = told(rule, user(), said(call(call_id)), result(call_id), user("And now?"))
    assert made.tool_calls is not None
    assert re.fullmatch(rule.ids, made.tool_calls[0]["id"])
    assert answered.tool_call_id == made.tool_calls[0]["id"]
    if re.fullmatch(rule.ids, call_id):
        assert made.tool_calls[0]["id"] == call_id


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "name", ["get_weather", "weather.get", "1st-weather", "-", "天気", "a" * 64, "functions.get.it"]
)
def test_a_name_of_any_form_fits_everywhere_and_comes_back(rule: CallRule, name: str) -> None:
    tools = (tool(name),) if re.fullmatch("[A-Za-z0-9_.-]{1,64}", name) else ()
    choice = tools[0] if tools else None
    calls = translated(job(user(), said(call("c1", name)), result("c1"), tools=tools, tool_choice=choice), rule)
    request = calls.job.request
    names = {made["function"]["name"] for m in request.conversation for made in m.tool_calls or ()}
    names |= {one["function"]["name"] for one in request.tools or ()}
    names |= {request.tool_choice["function"]["name"]} if isinstance(request.tool_choice, dict) else set()
    (one,) = names
    assert re.fullmatch(rule.names, one)
    (answered,) = calls.restored(Done("tool_calls", 7, 4, (call("new", one),))).tool_calls
    assert answered["function"]["name"] == name


def test_two_names_never_become_one() -> None:
    names = ("a.b", "a_b", "a-b", "a.b.", "a..b")
    calls = translated(job(user(), tools=tuple(tool(name) for name in names)), OPENAI)
    told = [one["function"]["name"] for one in calls.job.request.tools or ()]
    assert len(set(told)) == len(told) == len(set(names))
    done = Done("tool_calls", 7, 4, tuple(call(f"c{n}", name) for n, name in enumerate(told)))
    assert [one["function"]["name"] for one in calls.restored(done).tool_calls] == list(names)


def test_an_answer_s_ids_are_its_own_and_each_other_s() -> None:
    calls = translated(job(user(), said(call("functions.weather:0")), result("functions.weather:0")), MISTRAL)
    (made,) = calls.job.request.conversation[1].tool_calls or ()
    done = Done("tool_calls", 7, 4, (call(made["id"]), call("new000001"), call("new000001"), call(""), call(None)))
    first, second, *others = [one["id"] for one in calls.restored(done).tool_calls]
    assert (first, second) == ("functions.weather:0", "new000001")
    assert len({first, second, *others}) == 5
    assert all(others)


CASES = {
    "in order": ((user(), said(call("a"), call("b")), result("a"), result("b")), ["a", "b"], ["20", "20"]),
    "the other way round": (
        (user(), said(call("a"), call("b")), result("b", "2"), result("a", "1")),
        ["a", "b"],
        ["1", "2"],
    ),
    "a word between": ((user(), said(call("a")), user("Quick!"), result("a")), ["a"], ["20"]),
    "split into two answers": (
        (user(), said(call("a")), said(call("b")), result("a"), result("b")),
        ["a", "b"],
        ["20"] * 2,
    ),
    "no result": ((user(), said(call("a"), call("b")), result("a"), user()), ["a", "b"], ["20", NO_RESULT.text]),
    "no result at the end": ((user(), said(call("a"))), ["a"], [NO_RESULT.text]),
    "the same id again": (
        (user(), said(call("a")), result("a", "1"), said(call("a")), result("a", "2")),
        ["a", None],
        ["1", "2"],
    ),
    "no ids at all": (
        (user(), said(call(None, "x"), call(None, "y")), result(None, "1"), result(None, "2")),
        [None, None],
        ["1", "2"],
    ),
    "by name": (
        (user(), said(call(None, "x"), call(None, "y")), result(None, "2", "y"), result(None, "1", "x")),
        [None, None],
        ["1", "2"],
    ),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("messages", "ids", "results"), CASES.values(), ids=CASES.keys())
def test_each_call_is_followed_by_its_result(
    rule: CallRule, messages: tuple[ChatMessage, ...], ids: list[str | None], results: list[str]
) -> None:
    conversation = told(rule, *messages)
    made = [one["id"] for message in conversation for one in message.tool_calls or ()]
    assert len(set(made)) == len(made) == len(ids)
    if rule is OPENAI:
        assert all(wanted in (None, one) for wanted, one in zip(ids, made, strict=True))
    answers = [message for message in conversation if message.role == "tool"]
    assert [answer.tool_call_id for answer in answers] == made
    assert [answer.text for answer in answers] == results
    assert sound(conversation, rule)


@pytest.mark.parametrize("rule", RULES)
def test_a_result_without_a_call_becomes_words_of_the_user(rule: CallRule) -> None:
    conversation = told(rule, user(), result("gone", "20", "weather"), result("lost", "x"), user("So?"))
    assert [(message.role, message.text) for message in conversation] == [
        ("user", "How warm is it?"),
        ("user", "Result of weather: 20"),
        ("user", "Result of a tool: x"),
        ("user", "So?"),
    ]


def test_no_provider_sees_another_one_s_fields() -> None:
    signed: JsonObject = {"extra_content": {"google": {"thought_signature": "abc"}}}
    odd = call("a", index=0, extra={"x": 1}, **signed)
    odd["function"]["parsed_arguments"] = {"in": "Rome"}
    plain = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    (made,) = told(OPENAI, user(), said(odd), result("a"))[1].tool_calls or ()
    assert made == plain
    (made,) = told(GOOGLE, user(), said(odd), result("a"))[1].tool_calls or ()
    assert made == {**plain, **signed}


@pytest.mark.parametrize(("arguments", "text"), [(None, "{}"), ("", "{}"), ({"in": "Rome"}, '{"in": "Rome"}')])
def test_arguments_are_text(arguments: Any, text: str) -> None:
    (made,) = told(OPENAI, user(), said(call("a", arguments=arguments)), result("a"))[1].tool_calls or ()
    assert made["function"]["arguments"] == text


@pytest.mark.parametrize(
    "broken", [{"id": "a"}, {"id": "a", "function": None}, {"function": {"name": 7}}, call("a", "")]
)
def test_a_call_without_a_function_is_the_request_s_fault(broken: JsonObject) -> None:
    with pytest.raises(BullpenError) as caught:
        translated(job(user(), said(broken)), OPENAI)
    assert (caught.value.code, caught.value.field) == (ErrorCode.INVALID_REQUEST, "messages")
    assert caught.value.fault == "request"


def test_there_is_always_a_content_and_never_an_empty_list_of_calls() -> None:
    spoken = translated(job(user(), said(call("a")), result("a"), said(text="20."), user("So?")), OPENAI)
    messages = chat_messages(spoken.job)
    assert [message.get("content") for message in messages] == ["How warm is it?", "", "20", "20.", "So?"]
    assert [len(message.get("tool_calls", "none")) for message in messages] == [4, 1, 4, 4, 4]


def test_a_plain_question_stays_as_it_is() -> None:
    asked = Job(InferenceRequest(prompt="Who?", context={"system": "Be brief.", "x": 1}), CARD, 50)
    assert translated(asked, MISTRAL).job == asked


@pytest.mark.parametrize(
    ("address", "model", "rule"),
    [
        ("https://api.openai.com", "gpt-5", OPENAI),
        ("https://api.mistral.ai", "labs-model", MISTRAL),
        ("https://openrouter.ai", "mistralai/devstral-small", MISTRAL),
        ("http://127.0.0.1:8000", "Mixtral-8x7B", MISTRAL),
        ("https://generativelanguage.googleapis.com", "gemini-3-pro", GOOGLE),
        ("https://api.deepseek.com", "deepseek-chat", OPENAI),
    ],
)
def test_which_rule_a_server_has(address: str, model: str, rule: CallRule) -> None:
    assert rule_of(address, model) is rule


def test_a_model_without_tools_reads_a_conversation_in_words() -> None:
    messages = (
        ChatMessage(role="assistant", content="Hello!"),
        user(),
        ChatMessage(role="developer", content="Be brief."),
        said(call("a", arguments='{"in": "Rome"}')),
        result("a", name="weather"),
        user("So?"),
        said(text="20."),
    )
    assert [(turn.role, turn.text) for turn in plain_turns(messages)] == [
        ("system", "Be brief."),
        ("user", BEGIN),
        ("assistant", "Hello!"),
        ("user", "How warm is it?"),
        ("assistant", '(called weather with {"in": "Rome"})'),
        ("user", "Result of weather: 20\n\nSo?"),
        ("assistant", "20."),
    ]


def sound(conversation: tuple[ChatMessage, ...], rule: CallRule) -> bool:
    """Whether the strictest of providers takes the calls and results of a conversation."""
    open_ids: list[str] = []
    for message in conversation:
        if message.role == "tool":
            if not open_ids or message.tool_call_id != open_ids.pop(0):
                return False
        elif open_ids:
            return False
        open_ids += [one["id"] for one in message.tool_calls or ()]
    made = [one for message in conversation for one in message.tool_calls or ()]
    forms = all(re.fullmatch(rule.ids, m["id"]) and re.fullmatch(rule.names, m["function"]["name"]) for m in made)
    return not open_ids and forms and len({one["id"] for one in made}) == len(made)


words = st.text(max_size=12) | st.sampled_from(IDS)
calls = st.lists(st.builds(call, st.none() | words, st.text(min_size=1, max_size=8)), max_size=3).map(tuple)
turns = st.lists(
    st.builds(
        lambda role, text, made, call_id, name: ChatMessage(
            role=role, content=text, tool_calls=made or None, tool_call_id=call_id, name=name
        ),
        st.sampled_from(("system", "user", "assistant", "tool")),
        st.none() | st.text(max_size=5),
        calls,
        st.none() | words,
        st.none() | st.text(max_size=5),
    ),
    max_size=8,
)


@given(turns, st.sampled_from(RULES))
def test_whatever_was_said_every_provider_takes_its_calls_and_results(turns: list[ChatMessage], rule: CallRule) -> None:
    assert sound(told(rule, user(), *turns), rule)
    spoken = [turn.role for turn in plain_turns((user(), *turns)) if turn.role != "system"]
    assert set(spoken) <= {"user", "assistant"}
    assert all(one != other for one, other in pairwise(spoken))
