"""The dashboard in a real browser, before the real daemon and a model server."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import browser as chromium
from tests.support.batchd_process import BatchdProcess
from tests.support.browser import Browser
from tests.support.jobs import Jobs, request_line
from tests.support.model_process import ModelProcess
from tests.support.model_settings import Settings

WHY_NOT = chromium.missing()

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(120),
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

PROMPT = "nobody but the model may read this"
KEY = "right-key-of-anna"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Browser]:
    with chromium.browser(tmp_path) as opened:
        yield opened


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ModelProcess]:
    with ModelProcess(tmp_path, settings=Settings(delay=0.05)) as server:
        yield server


def lines(count: int, behave: str | None = None, prefix: str = "line") -> bytes:
    messages = [{"role": "user", "content": PROMPT}]
    return b"".join(
        request_line(f"{prefix}-{number}", behave, messages=messages) for number in range(count)
    )


def test_it_shows_backends_and_batches_as_they_are(
    page: Browser, model: ModelProcess, tmp_path: Path
) -> None:
    slow_retries = {"retries": {"first_delay": 30.0, "max_delay": 60.0}}
    with BatchdProcess(tmp_path / "d", backend=model.base_url, settings=slow_retries) as batchd:
        page.open(f"{batchd.url}/dashboard")
        page.until(lambda text: "all backends are well" in text and "There is none yet." in text)
        jobs = Jobs(batchd.url)
        done = jobs.start(lines(3) + lines(1, "400", "bad"))
        page.until(lambda text: done in text and "4 of 4 lines, 1 failed" in text)
        waits = jobs.start(lines(2, "503", "sick"))
        text = page.until(lambda text: "2 lines are tried again: http_503 2" in text)
        assert waits in text
        jobs.ask_of(waits, "pause")
        page.until(lambda text: "paused since" in text)
        mark = f"return document.querySelector('[data-key={waits}] .mark').textContent"
        assert page.run(mark) == "paused"
        jobs.ask_of(waits, "resume")
        text = page.until(lambda text: "paused since" not in text)
        assert "test-model" in text
        assert "auto" in text
        assert PROMPT not in text
        assert page.run("return document.querySelectorAll('#batches > article').length") == 2
        assert page.complaints() == []


def test_a_backend_that_is_waited_for_is_resumed_by_its_button(
    page: Browser, model: ModelProcess, tmp_path: Path
) -> None:
    model.set(behave="quota")
    with BatchdProcess(tmp_path / "d", backend=model.base_url) as batchd:
        jobs = Jobs(batchd.url)
        batch_id = jobs.start(lines(1))
        page.open(f"{batchd.url}/dashboard")
        page.until(lambda text: "the quota is used up" in text and "trying again in" in text)
        model.set(behave="ok")
        page.click("#backends button")
        page.until(lambda text: batch_id in text and "completed" in text and "waiting" not in text)
        assert page.complaints() == []


def test_where_keys_are_configured_it_asks_for_one_and_keeps_it_in_the_tab(
    page: Browser, model: ModelProcess, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"anna sha256:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    keys.chmod(0o600)
    settings = {"auth": {"keys_file": str(keys)}}
    with BatchdProcess(tmp_path / "d", backend=model.base_url, settings=settings) as batchd:
        page.open(f"{batchd.url}/dashboard")
        page.until(lambda text: "asks for an API key" in text)
        page.type("#key", "wrong-key-of-bert")
        page.click("#ask button")
        page.until(lambda text: "Incorrect API key provided: wron***" in text)
        page.type("#key", "ключ")
        page.click("#ask button")
        page.until(lambda text: "a character that no key has" in text)
        page.type("#key", KEY)
        page.click("#ask button")
        page.until(lambda text: "all backends are well" in text)
        page.open(f"{batchd.url}/dashboard")
        page.until(lambda text: "all backends are well" in text)
        assert page.run("return localStorage.length") == 0
        page.click("#forget")
        page.until(lambda text: "asks for an API key" in text)
        assert page.run("return sessionStorage.length") == 0


def test_it_says_that_batchd_is_away_and_goes_on_when_it_is_back(
    page: Browser, model: ModelProcess, tmp_path: Path
) -> None:
    with BatchdProcess(tmp_path / "d", backend=model.base_url) as batchd:
        page.open(f"{batchd.url}/dashboard")
        page.until(lambda text: "all backends are well" in text)
        batchd.kill()
        page.until(lambda text: "batchd does not answer; asking again" in text)
        batchd.start()
        page.until(lambda text: "all backends are well" in text)
