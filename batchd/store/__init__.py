"""SQLite and its schema: one module per table, statements named and in one place."""

import aiosqlite

# An open transaction; only ``Database.write`` hands one out.
Transaction = aiosqlite.Connection
