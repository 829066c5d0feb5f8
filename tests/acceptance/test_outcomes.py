"""What each way of answering makes of a line: which file, which shape, after how many sendings."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from tests.conftest import StartBatchd
from tests.support.checker import check
from tests.support.eventlog import sent
from tests.support.jobs import Jobs, backends, request_line, request_lines, result_lines, scripted
from tests.support.model_process import ModelProcess

FAULT_LIMIT = 5
# Patience with the model server, and how much of an answer is taken, both small enough for a test.
IMPATIENT = {
    "first_byte_timeout": 0.4,
    "idle_timeout": 0.4,
    "total_timeout": 2,
    "max_answer_size": "1MiB",
}


class End(msgspec.Struct, frozen=True):
    """Where a line ends: an HTTP status or an error code, after so many sendings."""

    what: int | str
    sendings: int = 1


ANSWERED = {
    "ok": End(200),
    "201": End(201),
    "slow:0.1": End(200),
    "drip:0.0005": End(200),
    "pretty": End(200),
    "u2028": End(200),
    "chunked": End(200),
    "no-length": End(200),
    "continue": End(200),
    "gzip": End(200),
    "close-after": End(200),
    "500-then-200": End(200, 2),
    "408-then-200": End(200, 2),
    "503:3": End(200, 4),
    "timeout-then-200": End(200, 2),
    "html-then-200": End(200, 2),
    "cut-then-200": End(200, 2),
    "500|html|timeout|cut-then-200": End(200, 5),
}
REFUSED = {
    "400": End(400),
    "404": End(404),
    "413": End(413),
    "422": End(422),
    "text-400": End(400),
    "error-string:400": End(400),
    "redirect": End(307),
    "500-then-200|400": End(400, 2),
}
FAULTS = {
    "408": End(408, FAULT_LIMIT),
    "409": End(409, FAULT_LIMIT),
    "500-forever": End(500, FAULT_LIMIT),
    "503": End(503, FAULT_LIMIT),
    "text-500": End(500, FAULT_LIMIT),
    "timeout|timeout|html|html|502": End(502, FAULT_LIMIT),
    "502|502|502|502|html": End("server_error", FAULT_LIMIT),
    "timeout": End("request_timeout", FAULT_LIMIT),
    "stall": End("request_timeout", FAULT_LIMIT),
    "drip:0.3": End("request_timeout", FAULT_LIMIT),
    "html": End("server_error", FAULT_LIMIT),
    "empty": End("server_error", FAULT_LIMIT),
    "204": End("server_error", FAULT_LIMIT),
    "array": End("server_error", FAULT_LIMIT),
    "nan": End("server_error", FAULT_LIMIT),
    "badutf8": End("server_error", FAULT_LIMIT),
    "surrogate": End("server_error", FAULT_LIMIT),
    "trailing": End("server_error", FAULT_LIMIT),
    "deep": End("server_error", FAULT_LIMIT),
    "cut": End("server_error", FAULT_LIMIT),
    "cut-reset": End("server_error", FAULT_LIMIT),
    "cut-chunked": End("server_error", FAULT_LIMIT),
    "huge:2000000": End("server_error", FAULT_LIMIT),
    "infinite": End("server_error", FAULT_LIMIT),
    "gzip-bomb:2000000": End("server_error", FAULT_LIMIT),
    "garbage": End("server_error", FAULT_LIMIT),
    "switch": End("server_error", FAULT_LIMIT),
    "both-lengths": End("server_error", FAULT_LIMIT),
    "big-header": End("server_error", FAULT_LIMIT),
    "many-headers": End("server_error", FAULT_LIMIT),
}


def end_of(line: Mapping[str, Any]) -> int | str:
    return line["error"]["code"] if line["response"] is None else line["response"]["status_code"]


@pytest.mark.timeout(40)
def test_every_way_of_answering_ends_in_the_right_file_in_the_right_shape(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    expected = ANSWERED | REFUSED | FAULTS
    data = scripted(expected) + request_lines(200)
    batchd = start_batchd(backends=backends(model_process.base_url, **IMPATIENT))
    jobs = Jobs(batchd.url)
    account = jobs.account(data, jobs.start(data), within=35)
    summary = check(account, log=model_process.events)
    assert account.batch["status"] == "completed"
    assert summary.output_lines == 200 + len(ANSWERED)
    assert summary.refused == len(REFUSED) + sum(
        isinstance(end.what, int) for end in FAULTS.values()
    )

    output, errors = result_lines(account.output), result_lines(account.errors)
    times = sent(model_process.events)
    found = {
        name: End(end_of((output | errors)[name]), times[f"nonce of {name}"]) for name in expected
    }
    assert found == expected
    assert ANSWERED.keys() <= output.keys()
    assert errors.keys() == REFUSED.keys() | FAULTS.keys()
    for name in ("text-400", "text-500"):
        assert errors[name]["response"]["body"] == {
            "error": {
                "message": f"No: nonce of {name}\n",
                "type": "server_error",
                "param": None,
                "code": None,
            }
        }
    assert errors["error-string:400"]["response"]["body"] == {"error": "Unauthorized"}
    assert output["u2028"]["response"]["body"]["cut"] == "a\u2028b\u2029c\u0085d"


def test_a_line_that_breaks_every_connection_is_sent_no_oftener_than_its_faults_allow(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    data = request_line("resets", "reset") + request_line("closes", "close")
    # Asking for the models would leave a connection behind.
    batchd = start_batchd(model_process.base_url, batches={"check_models": False})
    jobs = Jobs(batchd.url)
    account = jobs.account(data, jobs.start(data))
    assert check(account, log=model_process.events).faults == 2
    ends = {name: end_of(line) for name, line in result_lines(account.errors).items()}
    assert ends == {"resets": "server_error", "closes": "server_error"}
    times = sent(model_process.events)
    assert {times["nonce of resets"], times["nonce of closes"]} == {FAULT_LIMIT}


def test_a_line_that_breaks_kept_connections_too_takes_few_of_them_along(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    """A kept connection may have been stale, so each fault may cost one sending more, no more."""
    model_process.set(delay=0.01)
    data = request_lines(200) + request_line("resets", "reset") + request_line("closes", "close")
    batchd = start_batchd(backends=backends(model_process.base_url))
    jobs = Jobs(batchd.url)
    account = jobs.account(data, jobs.start(data))
    assert check(account, log=model_process.events).faults == 2
    times = sent(model_process.events)
    assert max(times["nonce of resets"], times["nonce of closes"]) <= 2 * FAULT_LIMIT
