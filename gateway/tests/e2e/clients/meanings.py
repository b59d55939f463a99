"""Has names mean something else than they did, by whatever the protocol and SQL have for it.

Weir judged `accounts` as public.accounts; vault.accounts, with id 666, is nobody's. tenant.customers
isn't masked, public.customers is. Says `ok` if nothing of what is hidden was seen.
"""

import psycopg
from psycopg import pq


class Session:
    def __init__(self):
        self.db = psycopg.connect(autocommit=True)
        self.raw = self.db.pgconn

    def outcome(self, result):
        if result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            rows = range(result.ntuples)
            return [result.get_value(row, 0).decode() for row in rows]
        return result.error_field(pq.DiagnosticField.SQLSTATE).decode()

    def query(self, sql):
        return self.outcome(self.raw.exec_(sql.encode()))

    def prepare(self, name, sql):
        return self.outcome(self.raw.prepare(name.encode(), sql.encode()))

    def run(self, name):
        return self.outcome(self.raw.exec_prepared(name.encode(), []))


def expect(seen, expected):
    assert seen == expected, f"saw {seen}, not {expected}"


# EXECUTE of what was judged on another path.
s = Session()
expect(s.prepare("s", "SELECT id FROM accounts"), [])
expect(s.query("EXECUTE s"), ["1"])
expect(s.query("SET search_path = vault; EXECUTE s"), "42501")
expect(s.query("SET search_path = vault"), [])
expect(s.query("EXECUTE s"), "42501")
expect(s.run("s"), "42501")

# The path, changed by a portal that SQL runs by its name.
s = Session()
s.query("BEGIN")
expect(s.query("DECLARE c CURSOR FOR SELECT set_config('search_path', 'vault', false)"), [])
expect(s.query("FETCH c"), ["vault"])
s.query("COMMIT")
expect(s.query("SELECT id FROM accounts"), "42501")

# A description of before the path was another.
s = Session()
s.query("SET search_path = tenant")
expect(s.prepare("x", "SELECT ssn FROM customers WHERE id = 1"), [])
expect(s.run("x"), ["tenant-ssn"])
s.query("SET search_path = public")
expect(s.run("x"), ["*******6789"])
expect(s.run("x"), ["*******6789"])
s.query("BEGIN")
s.query("SET LOCAL search_path = tenant")
expect(s.run("x"), ["tenant-ssn"])
s.query("ROLLBACK")
expect(s.run("x"), ["*******6789"])

# Settings under another name than they seem to have.
s = Session()
for name in ["'role_'::varchar(4)", "'search_pathX'::varchar(11)", "'role'::text"]:
    expect(s.query(f"SELECT set_config({name}, 'x', false)"), "42501")

# The row that a view's check shows, and a function that EXISTS computes.
result = s.raw.exec_(b"UPDATE vips SET vip = false WHERE id = 1")
expect(result.error_field(pq.DiagnosticField.SQLSTATE), b"44000")
assert b"6789" not in result.error_message, result.error_message
expect(s.query("SELECT EXISTS (SELECT o.purge FROM orders o OFFSET 0)"), "42501")

print("ok")
