"""Opens a session and prints how that was refused: SQLSTATE and message. pg8000 shows both."""

import os

import pg8000.native

try:
    pg8000.native.Connection(
        os.environ["PGUSER"],
        host=os.environ["PGHOST"],
        port=int(os.environ["PGPORT"]),
        database=os.environ["PGDATABASE"],
        password=os.environ["PGPASSWORD"],
        # It would ask for TLS by itself.
        ssl_context=False,
    )
except pg8000.native.DatabaseError as e:
    print(e.args[0]["S"], e.args[0]["C"], e.args[0]["M"])
else:
    print("accepted")
