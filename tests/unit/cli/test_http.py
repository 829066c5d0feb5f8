import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchd.cli.client import Client
from batchd.cli.errors import CommandFailed, Refused, Unreachable
from batchd.cli.http import Http
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_api import FakeApi, serving


@contextmanager
def answering(answer: bytes) -> Generator[str]:
    """A server that reads once, answers once with these bytes, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_a_daemon_that_is_not_running_is_said_with_what_to_do(offline: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    result = offline("list", "--url", url)
    assert result.code == 1
    assert result.err == (
        f"batchd: cannot reach the daemon at {url} (connection refused): start it with "
        "`batchd serve`, or name its address with --url or $BATCHD_URL\n"
    )


def test_a_unix_socket_is_an_address_too(api: FakeApi, tmp_path: Path) -> None:
    path = tmp_path / "batchd.sock"
    client = Client(Http(f"unix:{path}"))
    with pytest.raises(Unreachable, match="there is no such socket"):
        client.healthy()
    with serving(api, path=str(path)):
        client.healthy()
        assert client.batches(20) == ([], False)


def test_a_url_that_ends_in_v1_means_the_same(api: FakeApi, url: str) -> None:
    Client(Http(url + "/v1/")).batches(20)
    assert api.requests == [("GET", "/v1/batches")]


@pytest.mark.parametrize("path", ["a b", "caf\udce9", "\u00fc", "100%25", "a?x=1"])
def test_a_url_with_any_path_is_asked(run: Run, api: FakeApi, url: str, path: str) -> None:
    assert "leave out what follows the host" in run("list", "--url", f"{url}/{path}").err
    assert api.requests != []


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8400", "ftp://x", "http://", "http://h:port", "unix:relative"),
        *("http://foo bar:8400", "http://a..b:8400", f"http://{'a' * 64}", "http://h:80000"),
        *("http://[::1", "http://[h]:8400", "http://\udce9:8400"),
    ],
)
def test_what_is_no_address_is_refused(offline: Run, url: str) -> None:
    result = offline("list", f"--url={url}")
    assert result.code == 1
    assert "is not an address of batchd" in result.err


def test_the_key_is_sent_and_a_wrong_one_is_said(
    run: Run, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHD_API_KEY", "bd-secret")
    api.refuse("GET", 401, "Incorrect API key provided: bd-s***.")
    result = run("list")
    assert result.code == 1
    assert result.err == (
        "batchd: Incorrect API key provided: bd-s***. Put the key in $BATCHD_API_KEY.\n"
    )
    assert api.headers[0]["Authorization"] == "Bearer bd-secret"


def test_a_key_with_a_line_break_is_said_and_not_shown(
    offline: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHD_API_KEY", "bd-secret\n")
    result = offline("list")
    assert "$BATCHD_API_KEY holds" in result.err
    assert "bd-secret" not in result.err


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    ],
)
def test_something_else_at_the_address_is_recognised(answer: bytes) -> None:
    with answering(answer) as url, pytest.raises(CommandFailed, match="batchd") as caught:
        Client(Http(url)).batch("batch_1")
    assert not isinstance(caught.value, Unreachable | Refused)


def test_an_error_that_is_not_ours_gives_its_status() -> None:
    page = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>"
    with answering(page) as url, pytest.raises(Refused, match="answered 502") as caught:
        Client(Http(url)).batch("batch_1")
    assert caught.value.passing


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"], ids=["none", "half"]
)
def test_a_connection_that_breaks_off_is_worth_another_try(answer: bytes) -> None:
    with answering(answer) as url, pytest.raises(Unreachable, match="broke off"):
        Client(Http(url)).batch("batch_1")


def test_an_upload_that_is_refused_half_way_says_why(tmp_path: Path) -> None:
    large = tmp_path / "large.jsonl"
    large.write_bytes(b"x" * 30_000_000)
    with answering(b"") as url, pytest.raises(Unreachable, match="max_upload_size"):
        Client(Http(url)).upload(large, "large.jsonl", lambda _sent: None)


def test_the_answer_to_an_upload_is_read_though_the_rest_was_not_wanted(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x")
    told = b'{"error":{"message":"The file is too large.","type":"x","param":null,"code":null}}'
    answer = b"HTTP/1.1 413 X\r\nContent-Length: %d\r\n\r\n%b" % (len(told), told)
    with answering(answer) as url, pytest.raises(Refused, match="The file is too large"):
        Client(Http(url)).upload(path, "in.jsonl", lambda _sent: None)
