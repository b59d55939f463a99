"""psycopg 3: libpq underneath, both protocols, server-side cursors, COPY and pipelines."""

import psycopg
from psycopg import errors

with psycopg.connect(autocommit=True) as db:
    cur = db.cursor()

    assert cur.execute("SELECT 1").fetchone() == (1,)
    # Without parameters it is a simple query, with them an extended one.
    row = cur.execute("SELECT name FROM customers WHERE id = %s", (2,)).fetchone()
    assert row == ("Grace Hopper",), row

    # The same statement many times: prepared after the fifth.
    for n in range(1, 51):
        (label,) = cur.execute(
            "SELECT label FROM plain WHERE id = %s", (n,), prepare=True
        ).fetchone()
        assert label == f"label {n}", label

    # Masked, in text and in binary.
    for binary in (False, True):
        with db.cursor(binary=binary) as masked:
            row = masked.execute(
                "SELECT id, ssn, name FROM customers WHERE id = %s", (1,)
            ).fetchone()
            assert row == (1, "*******6789", "Ada Lovelace"), row

    # A server-side cursor: DECLARE, FETCH, CLOSE inside a transaction.
    with db.transaction():
        with db.cursor(name="walk") as walk:
            walk.itersize = 100
            walk.execute("SELECT id FROM plain WHERE id <= 250 ORDER BY id")
            assert [row[0] for row in walk] == list(range(1, 251))

    with cur.copy("COPY scratch FROM STDIN") as copy:
        for n in range(1000):
            copy.write_row((n, f"note {n}"))
    assert cur.execute("SELECT count(*) FROM scratch").fetchone() == (1000,)
    with cur.copy("COPY scratch TO STDOUT") as copy:
        assert sum(1 for _ in copy.rows()) == 1000

    # Denied outside a transaction: the session goes on.
    try:
        cur.execute("DROP TABLE customers")
        raise AssertionError("DROP went through")
    except errors.InsufficientPrivilege as e:
        assert e.sqlstate == "42501", e.sqlstate
    assert cur.execute("SELECT 2").fetchone() == (2,)

    # Denied inside a transaction: failed for the client, and really rolled back upstream.
    try:
        with db.transaction():
            cur.execute("INSERT INTO scratch VALUES (5000, 'gone')")
            cur.execute("DROP TABLE %s" % "customers")
        raise AssertionError("DROP went through")
    except errors.InsufficientPrivilege:
        pass
    assert cur.execute("SELECT count(*) FROM scratch WHERE id = 5000").fetchone() == (0,)

    # A savepoint in front of it saves the transaction.
    with db.transaction():
        cur.execute("INSERT INTO scratch VALUES (6000, 'stays')")
        try:
            with db.transaction():
                cur.execute("DROP TABLE customers", ())
            raise AssertionError("DROP went through")
        except errors.InsufficientPrivilege:
            pass
        cur.execute("INSERT INTO scratch VALUES (6001, 'stays too')")
    (count,) = cur.execute("SELECT count(*) FROM scratch WHERE id >= 6000").fetchone()
    assert count == 2, count

    # A pipeline, then one with a denied statement in its middle.
    with db.pipeline():
        results = [
            db.execute("SELECT label FROM plain WHERE id = %s", (n,)) for n in range(1, 101)
        ]
    assert [r.fetchone()[0] for r in results] == [f"label {n}" for n in range(1, 101)]
    try:
        with db.pipeline():
            db.execute("SELECT 1")
            db.execute("DROP TABLE customers")
            db.execute("SELECT 3")
        raise AssertionError("DROP went through")
    except errors.InsufficientPrivilege:
        pass
    assert cur.execute("SELECT 4").fetchone() == (4,)

    # The server's own errors keep their state.
    try:
        cur.execute("SELECT 1 / %s", (0,))
        raise AssertionError("no error")
    except errors.DivisionByZero:
        pass

print("ok")
