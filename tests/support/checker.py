"""The oracle: are these two files a true account of what became of this input?

It reads the input, both result files, the final batch object and the model server's log, and knows
nothing of batchd. Invariants it holds: each custom_id once over both files; an answer stands under
the line it belongs to; lines that any client can cut apart; counts and usage that agree with the
files; bodies that reached the model server as they were written; no answered line sent again.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Never, cast

import msgspec

from tests.support.eventlog import Event, most_in_flight
from tests.support.nonce import answer_nonce
from tests.support.result_files import InputLine, ResultLine, read_input, read_results

NEVER_RUN = frozenset({"batch_expired", "batch_cancelled"})
WITH_RESULTS = frozenset({"completed", "expired", "cancelled"})

Proof = Callable[[Mapping[str, object]], str | None]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What was found when nothing was wrong."""

    total: int
    output_lines: int
    error_lines: int
    refused: int  # error lines with an HTTP answer
    faults: int  # error lines without one, after attempts
    never_run: int
    proven: int  # lines whose answer echoes their own nonce
    sendings: int
    resent: int  # sendings of a line that had its good answer already
    most_in_flight: int


class CheckFailed(AssertionError):
    """The files are not a true account."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that has ended: what went in, and what a client can download."""

    input: bytes
    output: bytes | None
    errors: bytes | None
    batch: Mapping[str, Any]


def check(
    account: Account,
    *,
    log: Sequence[Event] | None = None,
    resent_allowed: int = 0,
    proof: Proof | None = answer_nonce,
) -> Summary:
    """Raise CheckFailed at the first thing that is wrong.

    ``resent_allowed``: how many lines may have been sent again although they had been answered;
    after a kill -9 that is twice the slots, otherwise none. ``proof`` finds the nonce in an answer;
    None for a model server that echoes nothing.
    """
    batch = account.batch
    lines = read_input(account.input)
    good = read_results(account.output, "output file", _fail)
    bad = read_results(account.errors, "error file", _fail)
    _check_ids_of_files(account)
    if batch["status"] not in WITH_RESULTS or (not good and not bad):
        _check_nothing_came(batch, good + bad)
        return _summary([], [], 0, log or [], 0)
    _check_every_line_once(lines, good, bad)
    for line in good:
        _check_good(line)
    for line in bad:
        _check_bad(line)
    _check_counts(batch, len(lines), good, bad)
    _check_usage(batch, good)
    proven = _check_proofs(lines, good, bad, proof) if proof is not None else 0
    resent = _check_log(lines, good, log, resent_allowed) if log is not None else 0
    return _summary(good, bad, proven, log or [], resent)


def _check_ids_of_files(account: Account) -> None:
    batch = account.batch
    files = {"output_file_id": account.output, "error_file_id": account.errors}
    for key, content in files.items():
        if batch[key] is None and content:
            _fail(f"there are lines, but {key} is null")
        if batch[key] is not None and not content:
            _fail(f"{key} is set, but there are no lines")


def _check_nothing_came(batch: Mapping[str, Any], lines: Sequence[ResultLine]) -> None:
    if lines:
        _fail(f"a batch that is {batch['status']} has {len(lines)} result lines")
    if batch["status"] not in {"failed", "cancelled", "expired"} or batch["in_progress_at"]:
        _fail(f"a batch that is {batch['status']} has no result lines")
    if set(batch["request_counts"].values()) != {0}:
        _fail(f"no result lines, but counts: {batch['request_counts']}")


def _check_every_line_once(
    lines: Mapping[str, InputLine], good: Sequence[ResultLine], bad: Sequence[ResultLine]
) -> None:
    times = Counter(line.custom_id for line in (*good, *bad))
    for custom_id, count in times.items():
        if custom_id not in lines:
            _fail(f"custom_id {custom_id!r} is in no line of the input")
        if count > 1:
            _fail(f"custom_id {custom_id!r} has {count} result lines")
    missing = [custom_id for custom_id in lines if custom_id not in times]
    if missing:
        _fail(f"{len(missing)} lines have no result, the first is {missing[0]!r}")
    ids = Counter(line.id for line in (*good, *bad))
    name, count = ids.most_common(1)[0]
    if count > 1:
        _fail(f"{count} result lines have the id {name}")


def _check_good(line: ResultLine) -> None:
    _check_format(line)
    if line.error is not None or line.response is None:
        _fail(f"{line.custom_id!r} is in the output file without an answer")
    if not 200 <= line.response.status_code < 300:
        _fail(f"{line.custom_id!r} is in the output file with {line.response.status_code}")


def _check_bad(line: ResultLine) -> None:
    _check_format(line)
    if (line.error is None) == (line.response is None):
        _fail(f"{line.custom_id!r} needs either a response or an error")
    if line.response is not None and line.response.status_code < 300:
        _fail(f"{line.custom_id!r} is in the error file with {line.response.status_code}")


def _check_format(line: ResultLine) -> None:
    if not re.fullmatch(r"batch_req_[0-9A-Za-z]+", line.id):
        _fail(f"{line.custom_id!r} has the id {line.id!r}")
    if line.response is not None and not line.response.request_id:
        _fail(f"{line.custom_id!r} has an empty request_id")
    if line.error is not None and not (line.error.code and line.error.message):
        _fail(f"{line.custom_id!r} has an error that says nothing")


def _check_counts(
    batch: Mapping[str, Any], total: int, good: Sequence[ResultLine], bad: Sequence[ResultLine]
) -> None:
    """Lines that never ran count as neither completed nor failed."""
    never_run = sum(_never_ran(line) for line in bad)
    if never_run and batch["status"] == "completed":
        _fail(f"the batch is completed, but {never_run} lines never ran")
    true = {"total": total, "completed": len(good), "failed": len(bad) - never_run}
    if dict(batch["request_counts"]) != true:
        _fail(f"request_counts are {batch['request_counts']}, the files say {true}")


def _check_usage(batch: Mapping[str, Any], good: Sequence[ResultLine]) -> None:
    if batch["usage"] is None:
        return
    usages = [_object(line.response.body, "usage") for line in good if line.response is not None]
    told = {
        "input_tokens": sum(_number(usage, "prompt_tokens") for usage in usages),
        "output_tokens": sum(_number(usage, "completion_tokens") for usage in usages),
        "total_tokens": sum(_number(usage, "total_tokens") for usage in usages),
    }
    counted = {key: batch["usage"][key] for key in told}
    if counted != told:
        _fail(f"usage is {counted}, the answers say {told}")


def _check_proofs(
    lines: Mapping[str, InputLine],
    good: Sequence[ResultLine],
    bad: Sequence[ResultLine],
    proof: Proof,
) -> int:
    """An answer must echo its line's nonce; a refusal may lack one but never have another's."""
    proven = 0
    for line in (*good, *bad):
        if line.response is None:
            continue
        found = proof(line.response.body)
        if found is None and line.response.status_code >= 300:
            continue
        expected = lines[line.custom_id].nonce
        if found != expected:
            _fail(f"under {line.custom_id!r} stands the answer to {found!r}, not to {expected!r}")
        proven += 1
    return proven


def _check_log(
    lines: Mapping[str, InputLine], good: Sequence[ResultLine], log: Sequence[Event], allowed: int
) -> int:
    """Hold the files against what was sent; how many answered lines were sent again."""
    holders = Counter(line.nonce for line in lines.values())
    bodies = {(line.nonce, line.crc) for line in lines.values()}
    answered: Counter[str] = Counter()
    usable: Counter[str] = Counter()
    for event in log:
        if event.nonce not in holders:
            continue  # another batch's
        if (event.nonce, event.crc) not in bodies:
            _fail(f"the body of {event.nonce!r} was changed on its way")
        answered[event.nonce] += event.event == "end" and 200 <= event.status < 300
        usable[event.nonce] += event.usable
    for line in good:
        if not answered[lines[line.custom_id].nonce]:
            _fail(f"{line.custom_id!r} has an answer that was never given")
    resent = sum(max(0, count - holders[nonce]) for nonce, count in usable.items())
    if resent > allowed:
        _fail(f"{resent} answered lines were sent again, {allowed} were allowed")
    return resent


def _summary(
    good: Sequence[ResultLine],
    bad: Sequence[ResultLine],
    proven: int,
    log: Sequence[Event],
    resent: int,
) -> Summary:
    never_run = sum(_never_ran(line) for line in bad)
    refused = sum(line.response is not None for line in bad)
    return Summary(
        total=len(good) + len(bad),
        output_lines=len(good),
        error_lines=len(bad),
        refused=refused,
        faults=len(bad) - refused - never_run,
        never_run=never_run,
        proven=proven,
        sendings=sum(event.event == "start" for event in log),
        resent=resent,
        most_in_flight=most_in_flight(log),
    )


def _never_ran(line: ResultLine) -> bool:
    return line.error is not None and line.error.code in NEVER_RUN


def _object(thing: Mapping[str, object], key: str) -> dict[str, object]:
    value = thing.get(key)
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _number(thing: Mapping[str, object], key: str) -> int:
    value = thing.get(key)
    return value if isinstance(value, int) else 0


def _fail(what: str) -> Never:
    raise CheckFailed(what)
