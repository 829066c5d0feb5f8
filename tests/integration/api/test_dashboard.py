"""The dashboard is a page that may load its own two files and ask this API, and nothing else."""

import re

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from batchd.api import dashboard
from batchd.api.middleware import errors_as_json
from batchd.api.parts import CONFIG
from batchd.config import Config, DashboardConfig
from tests.integration.api.harness import Api

FILES = ("/dashboard/dashboard.css", "/dashboard/dashboard.js")


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/dashboard", "text/html"), (FILES[0], "text/css"), (FILES[1], "text/javascript")],
)
async def test_the_page_and_its_files_are_given_without_a_key(
    guarded: Api, path: str, kind: str
) -> None:
    answer = await guarded.get(path)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == f"{kind}; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_page_loads_its_two_files_and_nothing_from_elsewhere(api: Api) -> None:
    page = (await api.get("/dashboard")).body.decode()
    assert set(re.findall(r'(?:src|href)="(/[^"]*)"', page)) == set(FILES)
    for path in ("/dashboard", *FILES):
        text = (await api.get(path)).body.decode()
        assert "//" not in re.sub(r"^\s*//.*$|; //.*$", "", text, flags=re.MULTILINE)
        assert "innerHTML" not in text
        assert "<style" not in text
        assert " style=" not in text


@pytest.mark.parametrize("name", ["", "dashboard.html", "..%2Fapp.py", "x"])
async def test_nothing_else_is_below_it(api: Api, name: str) -> None:
    assert (await api.get(f"/dashboard/{name}")).status == 404


async def test_a_page_of_another_origin_may_not_load_it(api: Api) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert (await api.ask("GET", "/dashboard", headers=headers)).status == 403


async def test_it_can_be_turned_off() -> None:
    app = web.Application(middlewares=[errors_as_json])
    app[CONFIG] = Config(dashboard=DashboardConfig(enabled=False))
    app.add_routes([web.get("/dashboard", dashboard.page)])
    async with TestClient(TestServer(app)) as client, client.get("/dashboard") as response:
        assert response.status == 404
        assert (await response.json())["error"]["message"] == "Invalid URL (GET /dashboard)"
