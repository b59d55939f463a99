"""Attempts to have the server owe something else than Weir takes for owed: then the rows of a masked
statement would pass for those of another. Each ends with its session, or with masked rows."""
import os, socket, struct, time


def message(tag, body=b""):
    return tag + struct.pack("!i", len(body) + 4) + body


def query(text):
    return message(b"Q", text.encode() + b"\0")


def parse(name, text):
    return message(b"P", f"{name}\0{text}\0".encode() + b"\0\0")


def run(statement, parameters=0):
    values = struct.pack("!h", parameters) + b"\0\0\0\x011" * parameters
    bind = message(b"B", b"\0" + statement.encode() + b"\0\0\0" + values + b"\0\0")
    return bind + message(b"E", b"\0" + struct.pack("!i", 0))


SYNC, FLUSH, DONE = message(b"S"), message(b"H"), message(b"c")


class Session:
    def __init__(self):
        self.socket = socket.create_connection((os.environ["PGHOST"], int(os.environ["PGPORT"])), 20)
        options = b"user\0agent\0database\0app\0\0"
        self.socket.sendall(struct.pack("!ii", len(options) + 8, 196608) + options)
        self.seen = b""
        self.ended = False
        self.until(b"Z")
        # What it may see, what it may not, and what it copies into.
        for name, text in [
            ("plain", "SELECT label FROM plain WHERE id < 3"),
            ("masked", "SELECT ssn FROM customers"),
            ("copy", "COPY scratch FROM STDIN"),
        ]:
            self.say(parse(name, text) + SYNC)
            self.until(b"Z")

    def say(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def take(self, wait):
        """Takes in what comes until nothing does for so long."""
        self.socket.settimeout(wait)
        try:
            while data := self.socket.recv(1 << 16):
                self.seen += data
            self.ended = True
        except TimeoutError:
            pass
        except ConnectionResetError:
            self.ended = True

    def until(self, tag):
        for _ in range(200):
            self.take(0.05)
            if tag + b"\0\0\0" in self.seen:
                self.seen = b""
                return
        raise AssertionError(f"no {tag} in {self.seen}")

    def probe(self):
        """A statement that fails, then the masked one, twice."""
        for each in [run("plain", 1), run("masked"), run("masked")]:
            self.say(each + SYNC)
            self.take(0.3)


def flush_with_a_body(s):
    s.say(message(b"H", b"xx"))
    s.take(0.2)
    s.say(query("SELECT 1") + SYNC)


def time_out_at_a_flush(s):
    s.say(query("SET statement_timeout = '100ms'"))
    s.take(0.2)
    s.say(parse("", "SELECT 1") + FLUSH)
    s.take(0.3)
    s.say(FLUSH + query("SELECT 1") + SYNC)


def time_out_behind_a_portal(s):
    s.say(query("SET statement_timeout = '100ms'"))
    s.take(0.2)
    s.say(run("plain") + FLUSH)
    s.take(0.3)
    s.say(query("SELECT 1") + SYNC)


def sync_in_bad_data(s):
    s.say(query("COPY scratch FROM STDIN"))
    s.take(0.2)
    s.say(message(b"d", b"1\ta\tb\n") + SYNC + query("SELECT pg_sleep(0.3)") + query("SELECT 1/0"))


def sync_behind_a_second_copy(s):
    s.say(run("copy") + DONE + run("copy") + SYNC)
    s.take(0.3)
    s.say(DONE)
    s.take(0.2)
    s.say(SYNC)


def failure_behind_a_long_text(s):
    s.say(query("BEGIN"))
    s.take(0.2)
    s.say(query("SELECT tid FROM pgbench_tellers") + parse("", "SELECT nothing" + " + 1" * 60_000))
    s.take(1)
    s.say(SYNC)
    s.take(0.3)
    s.say(run("plain", 1) + SYNC)
    s.take(0.2)
    s.say(query("ROLLBACK"))


for attempt in [
    flush_with_a_body,
    time_out_at_a_flush,
    time_out_behind_a_portal,
    sync_in_bad_data,
    sync_behind_a_second_copy,
    failure_behind_a_long_text,
]:
    session = Session()
    attempt(session)
    session.take(0.5)
    session.seen = b""
    session.probe()
    assert b"123-45" not in session.seen, (attempt.__name__, session.seen)
    is_masked = b"*6789" in session.seen
    assert is_masked or session.ended, (attempt.__name__, session.seen)
    print(attempt.__name__, "masked" if is_masked else "ended")
