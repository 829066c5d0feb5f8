"""The checker finds what is wrong: one true account, and one test for each way to spoil it."""

import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.checker import Account, CheckFailed, check
from tests.support.eventlog import Event

Lines = list[dict[str, Any]]
LINES = 6
INPUT = [
    {
        "custom_id": f"c{index}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": f"n{index}"}]},
    }
    for index in range(LINES)
]


def answer(index: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"n{index}"}
    usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    return {"choices": [{"index": 0, "message": message}], "usage": usage}


def good_line(index: int) -> dict[str, Any]:
    response = {"status_code": 200, "request_id": f"up-{index}", "body": answer(index)}
    line = {"id": f"batch_req_{index:032x}", "custom_id": f"c{index}"}
    return {**line, "response": response, "error": None}


def refused_line(index: int) -> dict[str, Any]:
    body = {"error": {"message": "No.", "type": "x", "param": None, "code": None}}
    response = {"status_code": 400, "request_id": "up-9", "body": body | {"nonce": f"n{index}"}}
    return {**good_line(index), "response": response}


def error_line(index: int, code: str = "request_timeout") -> dict[str, Any]:
    error = {"code": code, "message": "No answer."}
    return {**good_line(index), "response": None, "error": error}


def good_lines() -> Lines:
    return [good_line(index) for index in range(4)]


def bad_lines() -> Lines:
    return [refused_line(4), error_line(5)]


def jsonl(lines: Lines) -> bytes:
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


def batch(**changes: Any) -> dict[str, Any]:
    return {
        "status": "completed",
        "in_progress_at": 1_700_000_000,
        "output_file_id": "file-o",
        "error_file_id": "file-e",
        "request_counts": {"total": LINES, "completed": 4, "failed": 2},
        "usage": {"input_tokens": 8, "output_tokens": 12, "total_tokens": 20},
        **changes,
    }


def account(good: Lines | None = None, bad: Lines | None = None, **changes: Any) -> Account:
    good, bad = good_lines() if good is None else good, bad_lines() if bad is None else bad
    return Account(
        input=jsonl(INPUT), output=jsonl(good), errors=jsonl(bad), batch=batch(**changes)
    )


def event(index: int, kind: Any, *, nth: int = 1, status: int = 0, body: object = None) -> Event:
    sent = json.dumps(body or INPUT[index]["body"]).encode()
    return Event(
        t=0,
        event=kind,
        nonce=f"n{index}",
        nth=nth,
        in_flight=int(kind == "start"),
        connection=1,
        status=status,
        usable=status == 200,
        crc=zlib.crc32(sent),
    )


def log() -> list[Event]:
    starts = [event(index, "start") for index in range(LINES)]
    ends = [event(index, "end", status=200) for index in range(4)]
    return [*starts, *ends, event(4, "end", status=400), event(5, "abort")]


def test_a_true_account_is_summed_up() -> None:
    summary = check(account(), log=log())
    assert (summary.total, summary.output_lines, summary.error_lines) == (6, 4, 2)
    assert (summary.refused, summary.faults, summary.never_run) == (1, 1, 0)
    assert (summary.proven, summary.sendings, summary.resent) == (5, 6, 0)


def swap_answers(good: Lines, _: Lines) -> None:
    good[0]["response"], good[1]["response"] = good[1]["response"], good[0]["response"]


def swap_a_refusal(_: Lines, bad: Lines) -> None:
    bad[0]["response"]["body"]["nonce"] = "n0"


def drop_a_line(good: Lines, _: Lines) -> None:
    del good[2]


def double_a_line(good: Lines, _: Lines) -> None:
    good.append({**good[2], "id": "batch_req_ff"})


def stand_in_both_files(_: Lines, bad: Lines) -> None:
    bad.append({**error_line(0), "id": "batch_req_ff"})


def repeat_an_id(good: Lines, bad: Lines) -> None:
    bad[0]["id"] = good[0]["id"]


def invent_a_line(good: Lines, _: Lines) -> None:
    good.append({**good_line(9), "custom_id": "stranger"})


def leave_out_a_key(good: Lines, _: Lines) -> None:
    del good[0]["error"]


def add_a_key(good: Lines, _: Lines) -> None:
    good[0]["note"] = "x"


def body_as_a_string(good: Lines, _: Lines) -> None:
    good[0]["response"]["body"] = json.dumps(answer(0))


def refusal_among_the_good(good: Lines, _: Lines) -> None:
    good[0]["response"]["status_code"] = 400


def answer_among_the_bad(_: Lines, bad: Lines) -> None:
    bad[0]["response"]["status_code"] = 200


def both_response_and_error(_: Lines, bad: Lines) -> None:
    bad[0]["error"] = {"code": "x", "message": "y"}


def neither_response_nor_error(_: Lines, bad: Lines) -> None:
    bad[1]["error"] = None


def a_foreign_id(good: Lines, _: Lines) -> None:
    good[0]["id"] = "req-1"


def an_empty_request_id(_: Lines, bad: Lines) -> None:
    bad[0]["response"]["request_id"] = ""


def an_answer_without_nonce(good: Lines, _: Lines) -> None:
    good[0]["response"]["body"] = {"usage": answer(0)["usage"]}


def never_run_in_a_completed_batch(_: Lines, bad: Lines) -> None:
    bad[1] = error_line(5, "batch_expired")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (swap_answers, "stands the answer to"),
        (swap_a_refusal, "stands the answer to"),
        (drop_a_line, "1 lines have no result"),
        (double_a_line, "has 2 result lines"),
        (stand_in_both_files, "has 2 result lines"),
        (repeat_an_id, "have the id"),
        (invent_a_line, "in no line of the input"),
        (leave_out_a_key, "not a result line"),
        (add_a_key, "not a result line"),
        (body_as_a_string, "not a result line"),
        (refusal_among_the_good, "in the output file with 400"),
        (answer_among_the_bad, "in the error file with 200"),
        (both_response_and_error, "either a response or an error"),
        (neither_response_nor_error, "either a response or an error"),
        (a_foreign_id, "has the id"),
        (an_empty_request_id, "empty request_id"),
        (an_answer_without_nonce, "stands the answer to None"),
        (never_run_in_a_completed_batch, "never ran"),
    ],
)
def test_a_spoilt_line_is_found(spoil: Callable[[Lines, Lines], None], message: str) -> None:
    good, bad = good_lines(), bad_lines()
    spoil(good, bad)
    with pytest.raises(CheckFailed, match=message):
        check(account(good, bad))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request_counts": {"total": 6, "completed": 5, "failed": 1}}, "request_counts"),
        ({"request_counts": {"total": 7, "completed": 4, "failed": 2}}, "request_counts"),
        ({"usage": {"input_tokens": 8, "output_tokens": 12, "total_tokens": 21}}, "usage"),
        ({"output_file_id": None}, "output_file_id is null"),
        ({"status": "failed"}, "failed has 6 result lines"),
        ({"status": "in_progress"}, "in_progress has 6 result lines"),
    ],
)
def test_a_batch_that_disagrees_with_its_files_is_found(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckFailed, match=message):
        check(account(**changes))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (jsonl(good_lines())[:-1], "does not end with a newline"),
        (jsonl(good_lines())[:-20] + b"\n", "not a result line"),
        (jsonl(good_lines()).replace(b"up-0", b"up-\xff"), "not UTF-8"),
        (jsonl(good_lines()) + b"\n", "not a result line"),
        (b"", "no lines"),
        (jsonl(good_lines()).replace(b"up-0", "a\u2028b".encode()), "splitlines"),
        (jsonl(good_lines()).replace(b'"total_tokens": 5', b'"total_tokens": NaN', 1), "not a res"),
    ],
)
def test_a_torn_file_is_found(output: bytes, message: str) -> None:
    torn = Account(input=jsonl(INPUT), output=output, errors=jsonl(bad_lines()), batch=batch())
    with pytest.raises(CheckFailed, match=message):
        check(torn)


def changed_body(events: list[Event]) -> list[Event]:
    return [*events, event(3, "start", nth=2, body={"model": "other"})]


def answered_twice(events: list[Event]) -> list[Event]:
    return [*events, event(0, "start", nth=2), event(0, "end", nth=2, status=200)]


def never_answered(events: list[Event]) -> list[Event]:
    return [told for told in events if not (told.nonce == "n2" and told.event == "end")]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed_body, "was changed on its way"),
        (answered_twice, "1 answered lines were sent again"),
        (never_answered, "an answer that was never given"),
    ],
)
def test_a_log_that_disagrees_is_found(
    spoil: Callable[[list[Event]], list[Event]], message: str
) -> None:
    with pytest.raises(CheckFailed, match=message):
        check(account(), log=spoil(log()))


def test_after_a_kill_some_answered_lines_may_be_sent_again() -> None:
    assert check(account(), log=answered_twice(log()), resent_allowed=1).resent == 1


def test_lines_that_never_ran_count_as_neither() -> None:
    bad = [refused_line(4), error_line(5, "batch_cancelled")]
    counts = {"total": LINES, "completed": 4, "failed": 1}
    summary = check(account(None, bad, status="cancelled", request_counts=counts))
    assert summary.never_run == 1
    with pytest.raises(CheckFailed, match="request_counts"):
        check(account(None, bad, status="cancelled"))


def test_a_batch_cancelled_before_it_ran_has_nothing() -> None:
    nothing: dict[str, Any] = {"output_file_id": None, "error_file_id": None}
    nothing["request_counts"] = {"total": 0, "completed": 0, "failed": 0}
    empty = batch(status="cancelled", in_progress_at=None, **nothing)
    assert check(Account(input=jsonl(INPUT), output=None, errors=None, batch=empty)).total == 0
    for changes in ({"status": "completed"}, {"in_progress_at": 1}):
        with pytest.raises(CheckFailed, match="no result lines"):
            check(Account(input=b"", output=None, errors=None, batch=empty | changes))


def test_a_model_server_that_echoes_nothing_can_be_checked_without_proof() -> None:
    good = good_lines()
    an_answer_without_nonce(good, [])
    assert check(account(good), proof=None).proven == 0
