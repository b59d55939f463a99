"""pg8000: pure Python, unnamed and named statements."""

import os

import pg8000.dbapi
import pg8000.native

db = pg8000.native.Connection(
    os.environ["PGUSER"],
    host=os.environ["PGHOST"],
    port=int(os.environ["PGPORT"]),
    database=os.environ["PGDATABASE"],
    password=os.environ["PGPASSWORD"],
)

assert db.run("SELECT 1") == [[1]]
assert db.run("SELECT name FROM customers WHERE id = :id", id=2) == [["Grace Hopper"]]
statement = db.prepare("SELECT label FROM plain WHERE id = :id")
for n in range(1, 51):
    assert statement.run(id=n) == [[f"label {n}"]]
assert db.run("SELECT ssn FROM customers WHERE id = :id", id=1) == [["*******6789"]]


def denied(sql, state, **parameters):
    try:
        db.run(sql, **parameters)
    except pg8000.native.DatabaseError as e:
        assert e.args[0]["C"] == state, e
    else:
        raise AssertionError(f"{sql} went through")


denied("DROP TABLE customers", "42501")
assert db.run("SELECT 2") == [[2]]

db.run("START TRANSACTION")
db.run("INSERT INTO scratch VALUES (5000, 'gone')")
denied("DROP TABLE customers", "42501")
denied("SELECT 3", "25P02")
db.run("ROLLBACK")
assert db.run("SELECT count(*) FROM scratch WHERE id = 5000") == [[0]]

import io

db.run("COPY scratch FROM STDIN", stream=io.BytesIO(b"1\tone\n2\ttwo\n"))
out = io.BytesIO()
db.run("COPY scratch TO STDOUT", stream=out)
assert out.getvalue() == b"1\tone\n2\ttwo\n", out.getvalue()
db.close()
print("ok")
