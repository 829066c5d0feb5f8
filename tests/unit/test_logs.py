import ast
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from aiohttp import ClientResponseError, RequestInfo
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

import batchd
from batchd.logs import LONGEST_TEXT, configure, redact

SOURCE = Path(batchd.__file__).parent
LOG_METHODS = {"debug", "info", "warning", "error", "critical", "exception"}
SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")

Configured = Callable[[str], io.StringIO]

log = logging.getLogger("batchd.tests")


@pytest.fixture
def configured() -> Iterator[Configured]:
    """``configured("json")`` sends all logging to the buffer it returns, until the test ends."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def to_buffer(style: str) -> io.StringIO:
        buffer = io.StringIO()
        configure("debug", style, buffer)
        return buffer

    yield to_buffer
    root.handlers[:] = handlers
    root.setLevel(level)


def fail(message: str) -> NoReturn:
    raise ValueError(message)


# -- the names of log records ----------------------------------------------------------------


def log_calls(source: Path) -> Iterator[tuple[str, ast.expr]]:
    """Each call of a ``log`` below ``source``: where it stands, and its first argument."""
    for path in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(
                        value=ast.Name(id="log") | ast.Attribute(attr="log" | "_log"), attr=method
                    ),
                    args=[first, *_],
                ) if method in LOG_METHODS:
                    yield f"{path.relative_to(source)}:{node.lineno}", first
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr="log")):
                    # The name is looked for in the first argument, where log.log has the level.
                    yield f"{path.relative_to(source)}:{node.lineno}", node
                case _:
                    pass


def log_names(source: Path = SOURCE) -> dict[str, list[str]]:
    """The event names in the code below ``source``, each with the places that log it."""
    names: dict[str, list[str]] = {}
    for place, name in log_calls(source):
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            names.setdefault(name.value, []).append(place)
    return names


def test_every_log_call_has_a_constant_name_in_snake_case() -> None:
    wrong = [
        f"{place}: {ast.unparse(name)}"
        for place, name in log_calls(SOURCE)
        if not (
            isinstance(name, ast.Constant)
            and isinstance(name.value, str)
            and SNAKE_CASE.fullmatch(name.value)
        )
    ]
    assert wrong == []


def test_log_names_are_found_where_they_are_used(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text('log.info("batch_finished")\nlog.error(f"no_{name}")\n')
    assert log_names(tmp_path) == {"batch_finished": ["module.py:1"]}
    assert [place for place, _ in log_calls(tmp_path)] == ["module.py:1", "module.py:2"]


# -- the formats -----------------------------------------------------------------------------


def test_the_journal_gets_priority_name_and_facts(configured: Configured) -> None:
    out = configured("journal")
    log.info("batch_finished", extra={"batch": "batch_1f", "failed": 2})
    assert out.getvalue() == "<6>batch_finished batch=batch_1f failed=2\n"


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)],
)
def test_each_level_has_the_priority_of_syslog(
    configured: Configured, level: str, priority: int
) -> None:
    out = configured("journal")
    getattr(log, level)("something_happened")
    assert out.getvalue() == f"<{priority}>something_happened\n"


@pytest.mark.parametrize(
    ("value", "spelled"),
    [
        ("plain-text_1.5/ü", "plain-text_1.5/ü"),
        ("two words", '"two words"'),
        ("", '""'),
        ("a=b", '"a=b"'),
        ('say "no"', r'"say \"no\""'),
        ("back\\slash", r'"back\\slash"'),
        ("two\nlines\r", r'"two\nlines\r"'),
        ("\x1b[31m red", r'"\x1b[31m red"'),
        ("\u2028 \u0085 \udc80", r'"\u2028 \x85 \udc80"'),
        (True, "true"),
        (None, "null"),
        (0.25, "0.25"),
        (float("nan"), "nan"),
        (Path("/var/lib/batchd"), "/var/lib/batchd"),
        (b"a prompt", '"<8 bytes>"'),
        (ValueError("bad value"), '"ValueError: bad value"'),
    ],
)
def test_a_fact_is_quoted_only_when_it_must_be(
    configured: Configured, value: object, spelled: str
) -> None:
    out = configured("journal")
    log.info("fact_seen", extra={"value": value})
    assert out.getvalue() == f"<6>fact_seen value={spelled}\n"


def test_a_terminal_gets_time_level_name_and_facts(configured: Configured) -> None:
    out = configured("plain")
    log.warning("backend_parked", extra={"backend": "vllm"})
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WARNING backend_parked backend=vllm\n", out.getvalue()
    )


def test_json_is_one_object_per_line_and_facts_cannot_replace_its_own_keys(
    configured: Configured,
) -> None:
    out = configured("json")
    log.info("batch_moved", extra={"event": "cancel", "failed": 2, "text": "a\nb\u2028"})
    log.info("batch_moved")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first.pop("at"))
    assert first == {
        "level": "info",
        "event": "batch_moved",
        "event_": "cancel",
        "failed": 2,
        "text": "a\nb\u2028",
    }
    assert second["event"] == "batch_moved"


def test_another_librarys_sentence_is_one_line_with_the_librarys_name(
    configured: Configured,
) -> None:
    out = configured("journal")
    logging.getLogger("aiohttp.client").error("Error in %s\n<0>forged", "handler")
    assert out.getvalue() == "<3>aiohttp.client: Error in handler\\n<0>forged\n"


def test_what_the_http_parser_could_not_read_is_not_logged(configured: Configured) -> None:
    out = configured("plain")
    secret = ValueError(b"my diagnosis is private")
    logging.getLogger("aiohttp.server").error("Error handling request", exc_info=secret)
    assert out.getvalue() == ""


def test_every_line_of_a_traceback_carries_the_priority(configured: Configured) -> None:
    out = configured("journal")
    try:
        fail("first line\nsecond line\x1b")
    except ValueError:
        log.exception("loop_failed", extra={"loop": "sweeper"}, stack_info=True)
    lines = out.getvalue().splitlines()
    assert lines[0] == "<3>loop_failed loop=sweeper"
    assert "<3>Traceback (most recent call last):" in lines
    assert r"<3>second line\x1b" in lines
    assert any(line.startswith("<3>Stack (most recent call last)") for line in lines)
    assert all(line.startswith("<3>") for line in lines)


def test_json_carries_the_traceback_as_one_text(configured: Configured) -> None:
    out = configured("json")
    try:
        fail("first line\nsecond line")
    except ValueError:
        log.exception("loop_failed")
    (entry,) = (json.loads(line) for line in out.getvalue().splitlines())
    assert entry["traceback"].endswith("ValueError: first line\nsecond line")


def test_no_text_is_long_enough_for_the_journal_to_cut(configured: Configured) -> None:
    out = configured("journal")
    log.info("answer_seen", extra={"text": "x" * 100_000})
    assert len(out.getvalue()) < LONGEST_TEXT + 100


def test_records_below_the_level_are_not_written(configured: Configured) -> None:
    configured("plain")
    out = io.StringIO()
    configure("WARNING", "journal", out)
    log.info("too_quiet")
    log.warning("loud_enough")
    assert out.getvalue() == "<4>loud_enough\n"


@pytest.mark.usefixtures("configured")
def test_auto_means_the_journal_only_for_the_stream_that_systemd_gave(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with path.open("w") as stream:
        status = path.stat()
        journal = f"{status.st_dev}:{status.st_ino}"
        configure("info", "auto", stream, journal_stream=journal)
        log.info("to_journal")
        configure("info", "auto", stream, journal_stream="1:2")
        log.info("to_somewhere_else")
    configure("info", "auto", io.StringIO(), journal_stream=journal)
    first, second = path.read_text().splitlines()
    assert first == "<6>to_journal"
    assert second.endswith(" INFO to_somewhere_else")


# -- what never gets out ---------------------------------------------------------------------

SECRET = "planted0secret1value2"  # noqa: S105 - it is planted to be looked for


@pytest.mark.parametrize(
    "text",
    [
        f"sk-{SECRET}",
        f"tried bd-{SECRET}, then gave up",
        f"'first\\nsk-{SECRET}'",
        f"Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}",
        f"Proxy-Authorization: Odd {SECRET} {SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}'}}",
        f"(b'Authorization', b'Bearer {SECRET}')",
        f'{{\\"authorization\\": \\"Bearer {SECRET}\\"}}',
        f"bearer {SECRET}",
        f"x-api-key: {SECRET}",
        f"{{'api_key': '{SECRET}'}}",
        f"http://localhost/v1?key={SECRET}&n=1",
        f"api_key={SECRET}",
        f"https://user:{SECRET}@localhost/v1",
        f"Set-Cookie: session={SECRET}",
    ],
)
def test_a_key_gets_out_in_no_format(configured: Configured, text: str) -> None:
    for style in ("journal", "plain", "json"):
        out = configured(style)
        log.info("key_seen", extra={"text": text, "many": [text], "error": ValueError(text)})
        logging.getLogger("aiohttp").info("saw %s", text)
        try:
            fail(text)
        except ValueError:
            log.exception("request_failed")
        assert out.getvalue().count("[redacted]") >= 5
        assert SECRET not in out.getvalue()


@pytest.mark.parametrize("name", ["key", "api_key", "authorization", "token", "password"])
def test_a_fact_named_like_a_secret_is_not_shown(configured: Configured, name: str) -> None:
    out = configured("journal")
    log.info("key_seen", extra={name: SECRET})
    assert out.getvalue() == f"<6>key_seen {name}=[redacted]\n"


@pytest.mark.parametrize(
    "text",
    [
        "disk-full task-list desk-top",
        "max_tokens=5",
        "api_key_file = /run/credentials/batchd.service/vllm",
        "authorization was refused",
        "http://127.0.0.1:8000/v1",
        "keys are read from a file",
    ],
)
def test_what_only_looks_a_little_like_a_key_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_the_headers_inside_an_http_error_stay_inside(configured: Configured) -> None:
    url = URL("http://127.0.0.1/v1")
    headers = CIMultiDict({"Authorization": f"Odd {SECRET}", "X-Odd": f"{SECRET})>"})
    request = RequestInfo(url, "POST", CIMultiDictProxy(headers), url)
    error = ClientResponseError(request, (), status=400, message="bad", headers=headers)
    for style in ("journal", "plain", "json"):
        out = configured(style)
        log.info("attempt_failed", extra={"error": error, "all": [error], "text": repr(error)})
        try:
            fail(repr(error))
        except ValueError:
            log.exception("attempt_failed")
        assert "<headers [redacted]>" in out.getvalue()
        assert SECRET not in out.getvalue()
