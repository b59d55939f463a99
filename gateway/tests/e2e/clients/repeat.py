"""Runs one prepared statement again and again and says how that ends.

Arguments: the SQL. Prints `running` once it has succeeded, then the SQLSTATE that ended it.
"""

import sys
import time

import psycopg

db = psycopg.connect(autocommit=True)
end = time.monotonic() + 60
try:
    while time.monotonic() < end:
        db.execute(sys.argv[1], prepare=True).fetchall()
        print("running", flush=True)
        time.sleep(0.05)
    print("never ended")
except psycopg.Error as e:
    print("ended", e.sqlstate, "closed" if db.closed else "open", str(e).splitlines()[0])
