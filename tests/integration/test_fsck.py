"""``fsck`` beside a daemon that works hard: whatever it does, nothing of it is damage."""

import contextlib
import os
import random
import secrets
import socket
import threading
import time
from pathlib import Path

import pytest

from batchd.upkeep.fsck import fsck
from tests.conftest import StartBatchd
from tests.support.batchd_process import BatchdProcess
from tests.support.jobs import Jobs, Refused, backends, request_lines
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until

CLIENTS = 4
LOOKS = 12  # between two restarts, and a third of them quick …
BATCHES = 12  # … and how many batches end meanwhile


class Looking:
    """Looks a directory over, again and again, until left; every look counts."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fsck", daemon=True)
        self._fault: BaseException | None = None
        self.looks = 0
        self.files = 0
        self.lines = 0
        self.findings: list[str] = []

    def __enter__(self) -> "Looking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def wait_for(self, looks: int) -> None:
        """Return when there were so many more."""
        enough = self.looks + looks
        wait_until(lambda: self.looks >= enough or self._fault is not None, within=60)
        if self._fault is not None:
            raise self._fault

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                quick = self.looks % 3 == 2
                for step in fsck(self._state, quick=quick, orphan_age=86400, now=time.time):
                    self.files += step.files
                    self.lines += step.lines
                    self.findings += [finding.sentence for finding in step.findings]
                self.looks += 1
        except BaseException as fault:
            self._fault = fault
            raise


class Client:
    """Creates, cancels, deletes and lets expire, as chance has it, until told to stop."""

    def __init__(self, batchd: BatchdProcess, chance: random.Random) -> None:
        self._port = batchd.port
        self._jobs = Jobs(batchd.url)
        self._chance = chance
        self.stop = threading.Event()
        self.ended: list[str] = []

    def run(self) -> None:
        while not self.stop.is_set():
            # What it was about to do with a batch is not done when the daemon goes meanwhile.
            with contextlib.suppress(OSError, Refused):
                self._round()
            wait_until(self._is_up, within=30)

    def _is_up(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 5):
            return True
        return self.stop.is_set()

    def _round(self) -> None:
        chance, jobs = self._chance, self._jobs
        behave = chance.choice([None, None, "400", "429"])
        data = request_lines(chance.randint(1, 60)) + request_lines(20, behave, prefix="other")
        input_id = jobs.upload(data)
        if chance.random() < 0.1:
            jobs.delete_file(input_id)
            return
        window = "1s" if behave == "429" or chance.random() < 0.2 else "24h"
        batch_id = str(jobs.create(input_id, window=window)["id"])
        if chance.random() < 0.4:
            jobs.delete_file(input_id)
        if chance.random() < 0.3:
            jobs.cancel(batch_id)
        batch = jobs.wait(batch_id)
        self.ended.append(batch["status"])
        for file_id in (batch["output_file_id"], batch["error_file_id"]):
            if file_id is not None and chance.random() < 0.5:
                jobs.delete_file(file_id)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nothing_that_a_working_daemon_does_is_found_to_be_damage(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    seed = int(os.environ.get("FSCK_SEED") or secrets.randbelow(1 << 32))
    print(f"FSCK_SEED={seed}")  # noqa: T201 - to see the same work again
    chance = random.Random(seed)  # noqa: S311 - what clients do
    model_process.set(delay=0.01)
    batchd = start_batchd(
        backends=backends(model_process.base_url, max_in_flight=16),
        batches={"completion_windows": ["24h", "1s"], "finish_grace": 0.2},
        retention={"sweep_every": 0.2},
        storage={"scrub_every": 0.1, "scrub_rate": "1GiB"},
    )
    clients = [Client(batchd, random.Random(chance.random())) for _ in range(CLIENTS)]  # noqa: S311 - as above
    threads = [threading.Thread(target=client.run, daemon=True) for client in clients]

    def ended() -> list[str]:
        return [status for client in clients for status in client.ended]

    with Looking(batchd.state) as looking:
        for thread in threads:
            thread.start()
        for restart in (batchd.terminate, batchd.kill, batchd.kill):
            looking.wait_for(LOOKS)
            enough = len(ended()) + BATCHES
            wait_until(lambda enough=enough: len(ended()) >= enough, within=60)
            restart()
            looking.wait_for(2)  # at a directory without a daemon
            batchd.start()
        looking.wait_for(LOOKS)
        for client in clients:
            client.stop.set()
        for thread in threads:
            thread.join(30)
    told = f"{looking.looks} looks, {looking.files} files, {looking.lines} lines"
    print(f"{told}, {len(ended())} batches ended")  # noqa: T201 - to read
    assert looking.findings == []
    assert {"completed", "cancelled", "expired"} <= set(ended())
    assert looking.lines > 1000
    # The daemon has looked too.
    assert batchd.log_text().count("scrubbed") > LOOKS
    assert "damage_found" not in batchd.log_text()
