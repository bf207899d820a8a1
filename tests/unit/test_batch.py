"""A file of jobs, read."""

import json

import pytest

from bullpen.batch import BadLines, line_of, read_batch


def test_a_line_is_a_request_or_a_prompt_and_is_named_after_the_file_and_its_place() -> None:
    batch = read_batch(b'\xef\xbb\xbf{"prompt": "one", "task_id": "mine"}\r\n\n  two {words}  \n', "batch")
    assert [line.number for line in batch.lines] == [1, 3]
    assert [line.job_id for line in batch.lines] == [f"{batch.name}-1", f"{batch.name}-3"]
    assert [json.loads(line.question.body) for line in batch.lines] == [
        {"prompt": "one", "task_id": "mine", "priority": "batch"},
        {"prompt": "two {words}", "task_id": f"{batch.name}-3", "priority": "batch"},
    ]


def test_a_priority_of_its_own_stays() -> None:
    (line,) = read_batch(b'{"prompt": "now", "priority": "interactive"}', "batch").lines
    assert json.loads(line.question.body)["priority"] == "interactive"


def test_the_same_file_is_the_same_batch_and_another_file_is_not() -> None:
    assert read_batch(b"one\ntwo", "batch") == read_batch(b"one\ntwo", "batch")
    assert read_batch(b"one\ntwo", "batch").name != read_batch(b"one\ntoo", "batch").name


def test_every_wrong_line_is_told_with_its_field() -> None:
    with pytest.raises(BadLines) as caught:
        read_batch(b'good\n{"promt": "x"}\n{"prompt": "x", "temperature": 9}\n{"nonsense', "batch")
    first, second, third = caught.value.problems
    assert first.startswith("line 2: promt:")
    assert second.startswith("line 3: temperature:")
    assert third.startswith("line 4: the body begins like a JSON object, and is not valid JSON")


def test_a_job_of_another_batch_is_no_line_of_this_one() -> None:
    assert line_of("abc-12", "abc") == 12
    assert line_of("abd-12", "abc") is None
    assert line_of("abc-x", "abc") is None
    assert line_of("", "abc") is None
