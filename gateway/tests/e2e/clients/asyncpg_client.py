"""asyncpg: its own protocol code, binary results, portals with row limits, COPY."""

import asyncio
import os

import asyncpg


async def main():
    db = await asyncpg.connect(ssl="prefer" if os.environ["PGSSLMODE"] != "disable" else False)

    assert await db.fetchval("SELECT 1") == 1
    statement = await db.prepare("SELECT label FROM plain WHERE id = $1")
    for n in range(1, 51):
        assert await statement.fetchval(n) == f"label {n}"

    row = await db.fetchrow("SELECT id, ssn, vip FROM customers WHERE id = $1", 1)
    assert tuple(row) == (1, "*******6789", True), row

    # A portal, read in pieces.
    async with db.transaction():
        ids = [
            r["id"]
            async for r in db.cursor("SELECT id FROM plain WHERE id <= 250 ORDER BY id", prefetch=50)
        ]
    assert ids == list(range(1, 251))

    await db.copy_records_to_table("scratch", records=[(n, f"note {n}") for n in range(1000)])
    assert await db.fetchval("SELECT count(*) FROM scratch") == 1000

    for sql in ("DROP TABLE customers", "ALTER TABLE customers ADD COLUMN x int"):
        try:
            await db.execute(sql)
            raise AssertionError(f"{sql} went through")
        except asyncpg.InsufficientPrivilegeError as e:
            assert e.sqlstate == "42501", e.sqlstate
    try:
        await db.fetch("DROP TABLE orders")
        raise AssertionError("DROP went through")
    except asyncpg.InsufficientPrivilegeError:
        pass
    assert await db.fetchval("SELECT 2") == 2

    transaction = db.transaction()
    await transaction.start()
    await db.execute("INSERT INTO scratch VALUES (5000, 'gone')")
    try:
        await db.fetch("DROP TABLE customers")
        raise AssertionError("DROP went through")
    except asyncpg.InsufficientPrivilegeError:
        pass
    try:
        await db.fetch("SELECT 3")
        raise AssertionError("the transaction is not failed")
    except asyncpg.InFailedSQLTransactionError:
        pass
    await transaction.rollback()
    assert await db.fetchval("SELECT count(*) FROM scratch WHERE id = 5000") == 0

    # LISTEN and NOTIFY, between two sessions of this agent, for whom something is masked.
    other = await asyncpg.connect(ssl=False)
    heard = asyncio.get_running_loop().create_future()
    await db.add_listener("news", lambda *args: heard.set_result(args[3]))
    await other.execute("NOTIFY news, 'hello'")
    assert await asyncio.wait_for(heard, 10) == ""

    # Cancel: a time limit makes asyncpg send a CancelRequest.
    try:
        await db.fetchval("SELECT pg_sleep(60)", timeout=0.5)
        raise AssertionError("it slept")
    except asyncio.TimeoutError:
        pass
    assert await db.fetchval("SELECT 4") == 4

    await other.close()
    await db.close()


asyncio.run(asyncio.wait_for(main(), 60))
print("ok")
