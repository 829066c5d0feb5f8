"""``/openapi.json`` as it is served, held against the application that serves it."""

import json
from typing import Any, cast

import jsonschema_rs

from batchd.states import Event
from tests.integration.api.ended import BUSY, LATE, NEVER, ODD, OK, played
from tests.integration.api.harness import Api

SOMEWHERE = {"name": "dashboard.css"}


async def description(api: Api) -> dict[str, Any]:
    answer = await api.get("/openapi.json")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    return cast("dict[str, Any]", answer.json)


def described_routes(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }


def served_routes(api: Api) -> set[tuple[str, str]]:
    """Those of the application; HEAD goes with GET."""
    return {
        (route.method, route.resource.canonical)
        for route in api.client.app.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }


async def test_what_is_served_is_described_and_what_is_described_is_served(api: Api) -> None:
    document = await description(api)
    assert described_routes(document) == served_routes(api)


async def test_a_key_is_asked_for_where_the_description_says_so(guarded: Api) -> None:
    document = await description(guarded)
    for method, path in sorted(described_routes(document)):
        told = document["paths"][path][method.lower()]
        names = [item["name"] for item in told["parameters"] if item["in"] == "path"]
        target = path.format(**{name: SOMEWHERE.get(name, "x") for name in names})
        status = (await guarded.ask(method, target)).status
        assert (status == 401) == ("401" in told["responses"]), (method, path)
        assert str(status) in told["responses"], (method, path)


async def test_limits_end_where_the_description_says(api: Api) -> None:
    batch_id = await api.batch_id()
    document = await description(api)
    seen = 0
    for path, methods in document["paths"].items():
        for item in methods.get("get", {}).get("parameters", []):
            if item["name"] != "limit":
                continue
            low, high = item["schema"]["minimum"], item["schema"]["maximum"]
            target = path.format(batch_id=batch_id)
            asked = {low - 1: 400, low: 200, high: 200, high + 1: 400}
            for limit, status in asked.items():
                assert (await api.get(f"{target}?limit={limit}")).status == status, target
            seen += 1
    assert seen == 3


async def test_result_lines_are_as_described(judge: Api) -> None:
    document = await description(judge)
    lines = {"$ref": "#/components/schemas/BatchRequestOutput", **document}
    validator = jsonschema_rs.Draft202012Validator(lines)
    batch = await (await played(judge, [OK, BUSY, ODD, LATE, NEVER])).ends(Event.PUBLISHED)
    for query in ("", "?include=input"):
        answer = await judge.get(f"/v1/batches/{batch.id}/results{query}")
        found = [json.loads(line) for line in answer.body.splitlines()]
        assert len(found) == 5
        for line in found:
            validator.validate(line)
            assert ("input" in line) == bool(query)
