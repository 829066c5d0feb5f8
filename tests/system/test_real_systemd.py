"""The real unit under a real systemd: what an operator does, and what goes wrong on a machine."""

import json
from collections.abc import Iterator

import pytest

from tests.system import machine
from tests.system.machine import Machine, until

WHY_NOT = machine.missing()

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(120),
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

PYTHON = "/opt/batchd/bin/python"
BATCHD = (PYTHON, "-I", "-m", "batchd")
CONFIG = "/etc/batchd/config.toml"
DROP_INS = "/etc/systemd/system/batchd.service.d"
STATE = "/var/lib/batchd"
INBOX = "/var/spool/batchd/inbox"
GET = "import urllib.request as r; print(r.urlopen('{url}').read().decode())"
MODEL_SERVER_PORT = 8000
LINES = 40

WORKING = f"""
[[backends]]
name = "scripted"
base_url = "http://127.0.0.1:{MODEL_SERVER_PORT}/v1"
max_in_flight = 4
"""


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine.booted(tmp_path_factory.mktemp("machine")) as box:
        slow = json.dumps({"delay": 0.1})
        box.run(
            *("systemd-run", "--unit=model-server", PYTHON, "-I", "-m"),
            *("tests.support.model_server", f"--port={MODEL_SERVER_PORT}", f"--settings={slow}"),
        )
        yield box


@pytest.fixture
def box(booted: Machine) -> Iterator[Machine]:
    """The machine with a working configuration, and batchd not started."""
    configure(booted, WORKING)
    yield booted
    booted.systemctl("stop", "batchd", check=False)
    booted.systemctl("reset-failed", "batchd", check=False)
    booted.remove(DROP_INS)
    booted.systemctl("daemon-reload")


def configure(box: Machine, text: str) -> None:
    box.write(CONFIG, text)
    box.run("chgrp", "batchd", CONFIG)
    box.run("chmod", "640", CONFIG)


def drop_in(box: Machine, *settings: str) -> None:
    box.write(f"{DROP_INS}/test.conf", "\n".join(["[Service]", *settings, ""]))
    box.systemctl("daemon-reload")


def start(box: Machine) -> None:
    said = box.systemctl("start", "batchd", check=False)
    assert not said, box.run("journalctl", "--unit=batchd", "--lines=40", "--no-pager")


def show(box: Machine, name: str) -> str:
    return box.show("batchd", name)


def is_up_again(box: Machine) -> bool:
    return show(box, "NRestarts") == "1" and show(box, "SubState") == "running"


def inside(box: Machine, code: str, *, check: bool = True) -> str:
    """What ``code`` prints when Python runs it in the service's view of the file system."""
    pid = show(box, "MainPID")
    return box.run("nsenter", f"--target={pid}", "--mount", PYTHON, "-Ic", code, check=check)


def journal(box: Machine) -> list[dict[str, str]]:
    """What batchd itself logged since it was last started by hand."""
    box.run("journalctl", "--sync")
    since = f"_SYSTEMD_INVOCATION_ID={show(box, 'InvocationID')}"
    lines = box.run("journalctl", "--output=json", "--identifier=batchd", since).splitlines()
    return [json.loads(line) for line in lines]


def input_lines(prefix: str) -> str:
    body = {"model": "test-model", "messages": [{"role": "user", "content": "hello"}]}
    line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    lines = (line | {"custom_id": f"{prefix}-{number}"} for number in range(LINES))
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def submit(box: Machine, name: str) -> str:
    box.write(f"/srv/{name}.jsonl", input_lines(name))
    return json.loads(box.run(*BATCHD, "submit", "--json", f"/srv/{name}.jsonl"))["id"]


def completed(box: Machine, batch_id: str) -> int:
    batch = json.loads(box.run(*BATCHD, "show", "--json", batch_id))
    return batch["request_counts"]["completed"]


def results(box: Machine, batch_id: str, name: str) -> list[str]:
    """The custom_ids in the batch's output file, sorted."""
    box.run(*BATCHD, "wait", batch_id)
    box.run(*BATCHD, "results", batch_id, "--output", f"/srv/{name}.output")
    lines = box.run("cat", f"/srv/{name}.output").splitlines()
    return sorted(json.loads(line)["custom_id"] for line in lines)


def test_start_returns_when_the_daemon_answers(box: Machine) -> None:
    start(box)
    health = box.run(PYTHON, "-Ic", GET.format(url="http://127.0.0.1:8400/healthz"))
    assert json.loads(health)["status"] == "ok"
    assert show(box, "StatusText")


def test_the_daemon_has_no_rights_and_sees_little(box: Machine) -> None:
    start(box)
    status = dict(
        line.split(":\t", 1)
        for line in box.run("cat", f"/proc/{show(box, 'MainPID')}/status").splitlines()
    )
    assert status["Uid"].split() == [box.run("id", "-u", "batchd")] * 4
    assert (status["CapEff"], status["CapBnd"]) == ("0" * 16, "0" * 16)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert "Read-only" in inside(box, "open('/etc/batchd/new', 'w')", check=False)
    assert "Permission" in inside(box, "import os; os.execv('/bin/true', ['x'])", check=False)
    assert inside(box, "import os; print(os.listdir('/root'))") == "[]"


def test_what_it_keeps_is_in_the_state_directory_for_its_group_only(box: Machine) -> None:
    start(box)
    assert box.run("stat", "--format=%U %G %a", STATE) == "batchd batchd 750"
    assert box.run("stat", "--format=%U", f"{STATE}/batchd.db") == "batchd"


def test_the_journal_has_the_priority_of_each_record_and_the_name_of_the_program(
    box: Machine,
) -> None:
    start(box)
    entries = journal(box)
    assert entries
    assert {entry["PRIORITY"] for entry in entries} <= {"4", "6"}
    assert not [entry for entry in entries if entry["MESSAGE"].startswith("<")]


def test_after_kill_9_it_is_started_again_and_finishes_what_it_began(box: Machine) -> None:
    start(box)
    batch_id = submit(box, "killed")
    until(lambda: completed(box, batch_id))
    box.systemctl("kill", "--signal=KILL", "batchd")
    until(lambda: is_up_again(box))
    assert results(box, batch_id, "killed") == sorted(f"killed-{n}" for n in range(LINES))


def test_a_stop_drains_in_time_and_the_next_start_goes_on(box: Machine) -> None:
    start(box)
    batch_id = submit(box, "stopped")
    until(lambda: completed(box, batch_id))
    box.systemctl("stop", "batchd")
    assert (show(box, "Result"), show(box, "ExecMainStatus")) == ("success", "0")
    assert show(box, "ActiveState") == "inactive"
    start(box)
    assert results(box, batch_id, "stopped") == sorted(f"stopped-{n}" for n in range(LINES))


def test_a_reload_takes_a_changed_configuration_or_refuses_it_and_stops_nothing(
    box: Machine,
) -> None:
    start(box)
    process = show(box, "MainPID")
    configure(box, WORKING.replace("scripted", "renamed"))
    box.systemctl("reload", "batchd")
    until(lambda: show(box, "StatusText") == "configuration reloaded")
    backends = json.loads(box.run(*BATCHD, "backends", "--json"))["data"]
    assert [backend["name"] for backend in backends] == ["renamed"]
    configure(box, "speling = 1")
    box.systemctl("reload", "batchd")
    until(lambda: "speling" in show(box, "StatusText"))
    assert (show(box, "MainPID"), show(box, "ActiveState")) == (process, "active")
    assert any("config_refused" in entry["MESSAGE"] for entry in journal(box))


def test_a_daemon_that_hangs_is_killed_and_started_again(box: Machine) -> None:
    drop_in(box, "WatchdogSec=1")
    start(box)
    box.systemctl("kill", "--kill-whom=main", "--signal=STOP", "batchd")
    until(lambda: is_up_again(box))
    assert "Watchdog timeout" in box.run("journalctl", "--unit=batchd", "--lines=500")


def test_a_wrong_configuration_stops_it_for_good_and_is_named(box: Machine) -> None:
    configure(box, "speling = 1")
    assert "failed" in box.systemctl("start", "batchd", check=False)
    assert (show(box, "ActiveState"), show(box, "NRestarts")) == ("failed", "0")
    assert show(box, "ExecMainStatus") == "78"
    assert any("speling" in entry["MESSAGE"] for entry in journal(box))


def test_a_credential_reaches_the_daemon_and_one_that_is_missing_is_told(box: Machine) -> None:
    box.write("/etc/batchd/credentials/key", "sk-planted\n")
    drop_in(box, "LoadCredential=key:/etc/batchd/credentials/key")
    credential = "/run/credentials/batchd.service/key"
    with_key = WORKING.replace("max_in_flight", f'api_key_file = "{credential}"\nmax_in_flight')
    configure(box, with_key)
    start(box)
    assert inside(box, f"print(open('{credential}').read())") == "sk-planted"
    box.systemctl("stop", "batchd")
    box.remove("/etc/batchd/credentials/key")
    box.systemctl("start", "batchd", check=False)
    assert show(box, "ExecMainStatus") == "243"


def test_a_member_of_the_group_drops_a_file_and_reads_the_answers(box: Machine) -> None:
    configure(box, f'{WORKING}\n[inbox]\ndirectory = "{INBOX}"\n')
    box.run("useradd", "--create-home", "--groups=batchd-users", "alice")
    box.write("/home/alice/dropped.jsonl", input_lines("dropped"))
    start(box)
    as_alice = ("runuser", "--user", "alice", "--")
    box.run(*as_alice, "cp", "/home/alice/dropped.jsonl", f"{INBOX}/.dropped")
    box.run(*as_alice, "mv", f"{INBOX}/.dropped", f"{INBOX}/dropped.jsonl")
    find = (*as_alice, "find", f"{INBOX}/outbox", "-name", "*.jsonl", "-size", "+0")
    answers = until(lambda: [line for line in box.run(*find).splitlines() if "output" in line])
    assert len(box.run(*as_alice, "cat", *answers).splitlines()) == LINES
