"""What `sequences.py` sends: sequences of messages, each made from its seed alone.

Every statement has a tag of its own, which its rows carry and `ledger` keeps. Where Weir does something of
its own, a statement has a twin: one that the server itself answers as Weir has to answer the first. An error
about a word of `MARKS` stands for Weir's.
"""
import collections, random, struct

MARKS = {"denied": "42501", "limit": "54000"}

Kind = collections.namedtuple("Kind", "text twin writes limited copies", defaults=(None, False, False, False))
# `direct` is what goes to the server itself; a pause has seconds in the place of both.
Message = collections.namedtuple("Message", "what through direct")

FOUR = "SELECT '{t}' AS tag, id FROM plain WHERE id < 5"
BREAKS = "SELECT '{t}' AS tag, 1/(3 - id) FROM plain WHERE id < 5"
# The policy lets an agent see two of them: the twin fails at the third.
TEN = "SELECT '{t}' AS tag, tid FROM pgbench_tellers"
TWO = "SELECT '{t}' AS tag, CASE WHEN tid < 3 THEN tid ELSE ('limit' || tid)::int END AS tid FROM pgbench_tellers"

PLAIN = [
    Kind("SELECT '{t}' AS tag"),
    Kind("SELECT '{t}' AS tag, $1::int + 1 AS n"),
    Kind("SELECT '{t}' AS tag, count(*) FROM ledger WHERE tag LIKE '{s}.%'"),
    Kind(FOUR),
    Kind("SELECT FROM plain WHERE id < 4 /* {t} */"),
    # Analysed apart from the others, so that what comes behind it may overtake it.
    Kind("SELECT '{t}' AS tag /* " + "long " * 14_000 + "*/"),
    Kind(""),
    Kind(" ; "),
    Kind(TEN + " WHERE tid < 3", limited=True),
    Kind("COPY (" + FOUR + ") TO STDOUT"),
    Kind("NOTIFY {s}, '{t}'", writes=True),
    Kind("LISTEN {s}", writes=True),
]
WRITES = [
    Kind("INSERT INTO ledger VALUES ('{t}') RETURNING tag", writes=True),
    Kind("INSERT INTO ledger VALUES ('{t}')", writes=True),
]
FAILING = [
    Kind("SELEC '{t}'"),
    Kind("SELECT '{t}' AS tag, nothing FROM plain"),
    Kind("SELECT '{t}'::int"),
    Kind("SELECT '{t}' AS tag, 1/0"),
    Kind(BREAKS),
    Kind("INSERT INTO ledger SELECT tag FROM (VALUES ('{t}'), (NULL)) v (tag)", writes=True),
    Kind("COPY (" + BREAKS + ") TO STDOUT"),
]
# Beside a masked column nothing may be made up: these have the tag for a name.
MASKED = [
    Kind('SELECT ssn AS "{t}" FROM customers'),
    Kind('SELECT id, ssn AS "{t}" FROM customer_names WHERE id = $1::int'),
    Kind('SELECT ssn AS "{t}" FROM customers WHERE 1/(2 - id) > -9'),
    Kind("SELECT ssn FROM customers"),
]
DENIED = [
    Kind("DROP TABLE ledger /* {t} */", "denied {t}"),
    Kind("SELECT '{t}' FROM customers WHERE ssn LIKE '1%'", "denied {t}"),
    Kind("COPY (SELECT '{t}', ssn FROM customers) TO STDOUT", "denied {t}"),
    Kind("UPDATE ledger SET tag = '{t}'", "denied {t}", writes=True),
    Kind("DECLARE c CURSOR FOR SELECT ssn FROM customers /* {t} */", "denied {t}"),
    # Not by its text, but by what the server tells of its columns.
    Kind("SELECT '{t}' AS tag, ssn FROM customers", "SELECT 'denied'::text::int::text AS tag, ''::text AS ssn"),
]
LIMITED = [Kind(TEN, TWO, limited=True), Kind(f"COPY ({TEN}) TO STDOUT", f"COPY ({TWO}) TO STDOUT", limited=True)]
COPY_IN = [Kind("COPY ledger FROM STDIN /* {t} */", writes=True, copies=True)]
BEGIN, COMMIT, ROLLBACK, *SAVEPOINTS = TRANSACTION = [
    Kind(text + " /* {t} */") for text in ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT v", "ROLLBACK TO v", "RELEASE v")
]
NAMES = [
    Kind("DECLARE c CURSOR FOR " + FOUR),
    Kind("FETCH 2 FROM c"),
    Kind("CLOSE c"),
    Kind("PREPARE x AS " + FOUR),
    Kind("EXECUTE x", writes=True),
    Kind("DEALLOCATE a"),
    Kind("SET search_path = public"),
    Kind("SET LOCAL search_path = public"),
]
SLEEP = Kind("SELECT '{t}' AS tag, pg_sleep(20)", writes=True)

KINDS = {"PLAIN": 8, "WRITES": 6, "FAILING": 3, "MASKED": 3, "DENIED": 2, "LIMITED": 2, "COPY_IN": 3, "TRANSACTION": 5, "NAMES": 3}


def frame(tag, body=b""):
    return tag + struct.pack("!i", len(body) + 4) + body


def strings(*texts):
    return b"".join(t.encode() + b"\0" for t in texts)


class Sequence:
    """The messages of one session."""

    def __init__(self, seed, number):
        self.seed, self.name = f"{seed}/{number}", f"s{seed}_{number}"
        self.random = random.Random(self.seed)
        self.messages, self.tags = [], 0
        # Tags of rows that tell the client what it has written.
        self.returned = set()
        # Whether there is a portal without a name, for certain.
        self.unnamed = False
        # Few wait for time-outs: each takes a second.
        self.timed = self.odds(0.06)
        for _ in range(self.random.randint(3, 12)):
            self.unit()
        if self.odds(0.05):
            at = self.random.randrange(len(self.messages))
            self.messages.insert(at, Message("Terminate", frame(b"X"), frame(b"X")))
        self.the_end()

    def odds(self, share):
        return self.random.random() < share

    def one_of(self, steps):
        """Takes one of the steps, by weight."""
        self.random.choices(list(steps), list(steps.values()))[0]()

    # Statements.

    def tag(self):
        self.tags += 1
        return f"{self.name}.{self.tags}"

    def kind(self):
        group = self.random.choices(list(KINDS), list(KINDS.values()))[0]
        return self.random.choice(globals()[group])

    def texts(self, kinds):
        """One text of them all, and its twin: of what it denies of a text, Weir runs nothing."""
        tags = [dict(t=self.tag(), s=self.name) for _ in kinds]
        through = "; ".join(k.text.format(**tag) for k, tag in zip(kinds, tags))
        twins = [(k.twin or k.text).format(**tag) for k, tag in zip(kinds, tags)]
        self.returned |= {tag["t"] for k, tag in zip(kinds, tags) if "RETURNING" in k.text}
        unreadable = any(twin.startswith("SELEC ") for twin in twins)
        denied = any(twin.startswith("denied") for twin in twins)
        # The server has committed by the time that the limit is exceeded.
        denied |= len(kinds) > 1 and any(k.limited for k in kinds) and any(k.writes for k in kinds)
        limits = [i for i, k in enumerate(kinds) if k.limited]
        denied |= bool(limits) and any(k in TRANSACTION for k in kinds[limits[0] + 1 :])
        # One of Weir's two parsers takes all that follows for data.
        denied |= any(k.copies and any(t.strip(" ;") for t in twins[i + 1 :]) for i, k in enumerate(kinds))
        looked_at = [twin for twin in twins if twin.startswith("SELECT 'denied")]
        if unreadable:
            return through, through
        return through, "denied" if denied else "; ".join(looked_at[:1] or twins)

    # Single messages.

    def say(self, what, through, direct=None):
        self.messages.append(Message(what, through, direct or through))

    def plain(self, tag, what):
        self.say(what, frame(tag))

    def query(self, *kinds):
        through, direct = self.texts(kinds)
        self.say(f"Query {through!r}", frame(b"Q", strings(through)), frame(b"Q", strings(direct)))
        self.unnamed = False
        for kind in kinds:
            if kind.copies:
                self.copy_data()

    def parse(self, name, kind):
        texts = self.texts([kind])
        self.say(f"Parse {name!r} {texts[0]!r}", *[frame(b"P", strings(name, text) + b"\0\0") for text in texts])

    def bind(self, portal, statement, value=None):
        values = b"\0\0\0\0" if value is None else struct.pack("!hhi", 0, 1, len(value)) + value
        formats = self.random.choice([[], [], [0], [1]])
        packed = struct.pack(f"!h{len(formats)}h", len(formats), *formats)
        self.say(f"Bind {portal!r} to {statement!r} {value} {formats}", frame(b"B", strings(portal, statement) + values + packed))
        self.unnamed |= not portal

    def portal(self, name):
        # PostgreSQL 15 crashes at an Execute of what a failed query has left there.
        return name if name or self.unnamed else "p"

    def describe(self, kind, name):
        self.say(f"Describe {kind} {name!r}", frame(b"D", kind.encode() + strings(name)))

    def close(self, kind, name):
        self.say(f"Close {kind} {name!r}", frame(b"C", kind.encode() + strings(name)))

    def execute(self, portal, rows):
        self.say(f"Execute {portal!r} {rows}", frame(b"E", strings(portal) + struct.pack("!i", rows)))

    def sync(self):
        self.plain(b"S", "Sync")
        self.unnamed = False

    def flush(self):
        self.plain(b"H", "Flush")

    def done(self):
        self.plain(b"c", "CopyDone")

    def fail(self):
        self.say("CopyFail", frame(b"f", strings("enough")))

    def nothing(self):
        pass

    def pause(self, seconds):
        self.messages.append(Message(f"Pause {seconds}", seconds, seconds))

    # What is made of them.

    def unit(self):
        time_outs = 2 if self.timed else 0
        self.one_of({self.simple: 5, self.extended: 8, self.again: 3, self.transaction: 2, self.stray: 1, self.time_out: time_outs})
        self.one_of({self.sync: 12, self.flush: 2, self.nothing: 3})

    def simple(self):
        self.query(*[self.kind() for _ in range(self.random.choice([1, 1, 1, 2, 3]))])

    def extended(self):
        """A statement's whole way, of which now and then a step is missing."""
        kind, name, portal = self.kind(), self.random.choice(["", "", "a", "b"]), self.random.choice(["", "", "p", "q"])
        # A parameter may be given a bad value, or none.
        value = self.random.choice([b"1", b"1", b"1", b"x", None]) if "$1" in kind.text else None
        steps = {
            lambda: self.parse(name, kind): 0.97,
            lambda: self.bind(portal, name, value): 0.97,
            lambda: self.describe("P", self.portal(portal)): 0.5,
            lambda: self.run(self.portal(portal), kind): 0.97,
        }
        for step, share in steps.items():
            if self.odds(share):
                step()

    def run(self, portal, kind):
        """Perhaps in parts."""
        for rows in [0] if kind.copies else self.random.choice([[0], [0], [1], [2, 0], [1, 1, 1], [3, 3]]):
            self.execute(portal, rows)
        if kind.copies:
            self.copy_data()

    def again(self):
        """Uses names as they happen to stand."""
        name, portal = self.random.choice(["", "a", "b"]), self.random.choice(["", "p", "q"])
        for _ in range(self.random.randint(1, 3)):
            self.one_of({
                lambda: self.bind(portal, name): 2,
                lambda: self.execute(self.portal(portal), self.random.choice([0, 1, 2])): 2,
                lambda: self.describe("S", name): 2,
                lambda: self.describe("P", self.portal(portal)): 1,
                lambda: self.close("S", name): 1,
                lambda: self.close("P", portal): 1,
            })

    def transaction(self):
        self.query(BEGIN)
        for _ in range(self.random.randint(1, 3)):
            self.one_of({self.simple: 1, self.extended: 1, self.again: 1})
            self.one_of({self.sync: 4, self.nothing: 1})
        end = self.random.choice([COMMIT, COMMIT, ROLLBACK])
        if self.odds(0.5):
            self.query(end)
        else:
            self.parse("", end)
            self.bind("", "")
            self.execute("", 0)

    def copy_data(self):
        """Lines in pieces, what a server ignores among them, and an end, if any."""
        ends = [b"\n"] * 8 + [b"\ttoo much\n"]
        lines = b"".join(self.tag().encode() + self.random.choice(ends) for _ in range(self.random.randint(0, 4)))
        while lines:
            size = self.random.randint(1, len(lines))
            self.say(f"CopyData {lines[:size]}", frame(b"d", lines[:size]))
            lines = lines[size:]
            self.one_of({self.nothing: 80, self.sync: 6, self.flush: 5, self.simple: 1})
        self.one_of({self.nothing: 6, self.sync: 1})
        self.one_of({self.done: 16, self.fail: 3, self.nothing: 1})

    def stray(self):
        self.one_of({self.done: 1, self.fail: 1, self.copy_data: 1, self.sync: 1, self.flush: 1})

    def time_out(self):
        """The time is far more than what ends by itself takes, and far less than what doesn't."""
        self.query(Kind("SET statement_timeout = '1s' /* {t} */"))
        if self.odds(0.5):
            self.one_of({lambda: self.query(SLEEP): 1, lambda: self.query(self.kind(), SLEEP, self.kind()): 1})
        else:
            self.one_of({self.extended: 1, lambda: self.parse("", self.kind()): 1, self.again: 1, lambda: self.query(*COPY_IN): 1})
            self.flush()
            self.pause(1.6)
            self.one_of({self.simple: 1, self.extended: 1, self.again: 1, self.sync: 1})
        self.sync()
        self.query(Kind("SET statement_timeout = 0 /* {t} */"))

    def the_end(self):
        """Ends whatever may be open, with an answer that shows it."""
        self.fail()
        self.sync()
        self.query(ROLLBACK)
        self.say("Query end", frame(b"Q", strings(f"SELECT '{self.name}.end'")))

    # How they go over the wire.

    def pieces(self, side):
        """Bytes as they are written, in pieces that know no messages, and seconds to wait between."""
        dice, out, held = random.Random(self.seed), [], b""
        for message in self.messages:
            part = getattr(message, side)
            if isinstance(part, float):
                out += [held, part]
                held = b""
                continue
            held += part
            if dice.random() < 0.4:
                cut = len(held) if dice.random() < 0.7 else dice.randrange(len(held) + 1)
                out += [held[:cut], dice.choice([0.0, 0.0, 0.0, 0.002, 0.02, 0.05])]
                held = held[cut:]
        return out + [held]
