import json

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_api import BACKENDS, FakeApi, Json


def test_backends_are_shown_with_a_row_for_each_model_the_busiest_first(run: Run) -> None:
    assert run("backends").out.splitlines() == [
        "NAME    STATE    MODEL  IN FLIGHT  ANSWERS/S",
        "gpu     ok       large  32/1,000   0.5",
        "                 small  8/24       3.2",
        "hosted  waiting  small  0",
        "hosted: the quota is used up; trying again in 58 min",
    ]


def test_of_many_models_the_busiest_are_shown(run: Run, api: FakeApi) -> None:
    lane = BACKENDS[0]["lanes"][0]
    lanes = [{**lane, "model": f"m{number}", "in_flight": number} for number in range(30)]
    api.backends = [{**BACKENDS[0], "lanes": lanes}]
    rows = run("backends").out.splitlines()
    assert len(rows) == 22
    assert "m29" in rows[1]
    assert rows[-1].strip() == "… and 10 more"


def test_what_a_backend_has_that_was_sent_nothing(run: Run, api: FakeApi) -> None:
    idle: Json = {**BACKENDS[0], "lanes": []}
    api.backends = [idle, {**idle, "name": "away", "models": None}]
    assert "gpu   ok     2 models" in run("backends").out
    assert "away  ok     not known" in run("backends").out


def test_backends_json_hands_on_the_list(run: Run) -> None:
    assert json.loads(run("backends", "--json").out) == {"object": "list", "data": BACKENDS}


def test_escape_sequences_in_names_and_notes_do_not_reach_the_terminal(
    run: Run, api: FakeApi
) -> None:
    lanes = [{**BACKENDS[0]["lanes"][0], "model": "\x1b[2J"}]
    api.backends = [{**BACKENDS[1], "name": "\x1b[31m", "note": "\x1b]0;x\x07", "lanes": lanes}]
    assert "\x1b" not in run("backends").out


def test_resume_tries_a_backend_at_once(run: Run, api: FakeApi) -> None:
    result = run("backends", "resume", "hosted")
    assert (result.code, result.out) == (0, "hosted is tried at once\n")
    assert api.requests == [("POST", "/v1/backends/hosted/resume")]
    assert json.loads(run("backends", "resume", "hosted", "--json").out) == BACKENDS[1]


def test_a_backend_that_is_not_there_is_said(run: Run) -> None:
    result = run("backends", "resume", "a/b")
    assert result.code == 1
    assert "batchd: " in result.err
    assert "No such backend: x" in run("backends", "resume", "x").err


def test_options_before_resume_are_not_dropped_in_silence(run: Run, url: str) -> None:
    result = run("backends", "--url", url, "resume", "hosted")
    assert result.code == 2
    assert "write options behind `resume`" in result.err
    assert run("backends", "resume", "hosted", "--url", url).code == 0
