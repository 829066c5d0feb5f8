"""Table ``found_limit``: the limits that measuring has found, by backend and model."""

from collections.abc import Mapping

import aiosqlite
import msgspec

from batchd.store.database import Database

LaneName = tuple[str, str, str]  # the backend's name, its base_url, the model

PUT = """
INSERT INTO found_limit (backend, base_url, model, in_flight, found_at)
VALUES (:backend, :base_url, :model, :in_flight, :found_at)
ON CONFLICT DO UPDATE SET in_flight = excluded.in_flight, found_at = excluded.found_at
"""
# Clients name models, so there may be any number of them.
PRUNE = """
DELETE FROM found_limit WHERE rowid NOT IN
    (SELECT rowid FROM found_limit ORDER BY found_at DESC LIMIT 1000)
"""
ALL = "SELECT backend, base_url, model, in_flight FROM found_limit"


class _Row(msgspec.Struct, frozen=True):
    backend: str
    base_url: str
    model: str
    in_flight: int


async def put(tx: aiosqlite.Connection, found: Mapping[LaneName, int], now: int) -> None:
    """Remember these limits; of all that are remembered, the newest thousand stay."""
    for (backend, base_url, model), in_flight in found.items():
        await tx.execute(
            PUT,
            {
                "backend": backend,
                "base_url": base_url,
                "model": model,
                "in_flight": in_flight,
                "found_at": now,
            },
        )
    await tx.execute(PRUNE)


async def all_found(db: Database) -> dict[LaneName, int]:
    rows = [msgspec.convert(row, _Row) for row in await db.rows(ALL, {})]
    return {(row.backend, row.base_url, row.model): row.in_flight for row in rows}
