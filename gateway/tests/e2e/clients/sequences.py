"""Random sequences of messages, sent through Weir and to the server itself, must mean the same.

    sequences.py run through|direct SEED COUNT                         what each session was told
    sequences.py compare SEED THROUGH DIRECT RECORDS LEDGERS           what is wrong with it
    sequences.py show SEED SESSION                                     what a session says

Equal answers are rows of their own statements, errors and denials in their places, and the transaction status
that the server has; equal ledgers are equal effects; the record has each row with its statement.
"""
import collections, concurrent.futures, json, os, re, select, socket, struct, sys, time
from grammar import MARKS, Sequence

SSNS = [b"123-45-6789", b"987-65-4321", b"555-12-3456"]
# Seconds within which there is an answer, or something hangs.
PATIENCE = 20


def frames(data):
    at = 0
    while at + 5 <= len(data):
        size = 1 + struct.unpack_from("!i", data, at + 1)[0]
        if at + size > len(data):
            return
        yield chr(data[at]), data[at + 5 : at + size]
        at += size


class Session:
    def __init__(self, sequence, side):
        self.sequence, self.side, self.seen = sequence, side, b""
        self.socket = socket.create_connection((os.environ["PGHOST"], int(os.environ["PGPORT"])), PATIENCE)
        user = sequence.name if side == "through" else os.environ["PGUSER"]
        options = f"user\0{user}\0database\0{os.environ['PGDATABASE']}\0\0".encode()
        self.socket.sendall(struct.pack("!ii", len(options) + 8, 196608) + options)

    def take(self, seconds):
        """Takes in what there is within so long. False once the session has ended."""
        while select.select([self.socket], [], [], seconds)[0]:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionError:
                data = b""
            self.seen += data
            if not data:
                return False
            seconds = 0
        return True

    def until(self, is_there):
        """Takes in answers until they end, or there are those that are waited for. True if so."""
        limit = time.monotonic() + PATIENCE
        while open := time.monotonic() < limit:
            open = self.take(0.5)
            if not open or is_there(list(frames(self.seen))):
                return True
        return False

    def run(self):
        end = self.sequence.name.encode() + b".end"
        started = self.until(lambda seen: seen and seen[-1][0] == "Z")
        self.seen, start = b"", self.seen
        try:
            pieces = self.sequence.pieces(self.side)
            for piece in pieces:
                if isinstance(piece, float):
                    self.take(0)
                    time.sleep(piece)
                else:
                    self.socket.sendall(piece)
        except ConnectionError:
            pass
        ended = self.until(lambda seen: seen and seen[-1][0] == "Z" and any(end in body for _, body in seen[-3:]))
        leaks = [s.decode() for s in SSNS if s[:6] in start + self.seen]
        return {"leaks": leaks, "hangs": not (started and ended), "frames": [normal(*f) for f in frames(self.seen)]}


def normal(tag, body):
    """What of a message has to be the same on both sides; a message's text comes last, and doesn't."""
    if tag == "T":
        fields, at = [], 2
        while at < len(body):
            name, rest = body[at:].split(b"\0", 1)
            at += len(name) + 1 + 18
            fields.append([name.decode(), *struct.unpack("!ihih", rest[6:18])])
        return [tag, fields]
    if tag == "D":
        cells, at = [], 2
        while at < len(body):
            size = struct.unpack_from("!i", body, at)[0]
            cells.append(body[at + 4 : at + 4 + size].decode("latin1") if size >= 0 else None)
            at += 4 + max(size, 0)
        return [tag, cells]
    if tag in "EN":
        told = {chr(f[0]): f[1:].decode() for f in body.split(b"\0") if f}
        return [tag, told["V"], told["C"], told["M"]]
    if tag == "A":
        # Weir withholds what a notification carries; the process is another.
        return [tag, body[4:].split(b"\0")[0].decode()]
    return [tag, body.decode("latin1")]


def as_weir_would(frame):
    """The server's own answer, masked and denied as Weir would."""
    if frame[0] == "D":
        cells = frame[1]
        for ssn in SSNS:
            cells = [cell and cell.replace(ssn.decode(), "*" * 7 + ssn.decode()[-4:]) for cell in cells]
        return ["D", cells]
    if frame[0] == "E":
        for mark, sqlstate in MARKS.items():
            if f'"{mark}' in frame[3]:
                return ["E", frame[1], sqlstate, mark]
    return frame


def key(frame):
    """What is compared."""
    if frame[0] in "EN":
        # Weir has one SQLSTATE for names of statements and of portals that it doesn't know.
        return frame[:2] + [frame[2].replace("34000", "26000")]
    return frame


# What Weir says where it does otherwise than the server, for it can't follow or would have to guess. From there on
# a session isn't compared. Where it ends the session, the record has what exactly it can't follow.
ENDS = {
    "this message has no place here": "a request in the middle of COPY data",
    "Weir can't read the database's answer": "an error that may be of more than one request",
}
REASONS = [
    *ENDS,
    "has to come behind a Sync",
    "was not made through the extended protocol",
    "could show masked columns",
    "what EXECUTE could run",
    "can't stand in one text with one that writes",
]


ERRORS = [
    # What is denied would have failed for another reason: in a failed transaction, by its name, by a time-out.
    ("42501", "25P02"),
    ("42501", "42P03"),
    ("42501", "57014"),
    # Weir's question in front of a Bind fails with the transaction, and the Bind for want of parameters.
    ("25P02", "08P01"),
]


def difference(sequence, through, direct):
    """None if the same; else the place, and why Weir may do otherwise there, if it may."""
    for at in range(max(len(through), len(direct))):
        ours, theirs = [key(frames[at]) if at < len(frames) else ["none"] for frames in (through, direct)]
        if ours != theirs and (ours[-1], theirs[-1]) not in ERRORS:
            return at, excuse(sequence, through, at, theirs)
    return None


def excuse(sequence, through, at, theirs):
    def says(pattern):
        return any(re.match(pattern, message.what) for message in sequence.messages)

    ours, status = (through[at : at + 1] or [["none"]])[0], [frame[1] for frame in through[:at] if frame[0] == "Z"][-1:]
    before = [frame for frame in through[:at] if frame[0] != "Z"]
    last = before[-1] if before else ["none"]
    if ours[0] == "E" and (known := [reason for reason in REASONS if reason in ours[3]]):
        return known[0]
    if says("Terminate") and theirs == ["none"]:
        return "a Terminate behind what no Sync ends, which has an answer"
    if says("Terminate") and ours == ["none"] and theirs[0] == "E" and last[0] == "G":
        return "a Terminate among COPY data, of which the server complains to nobody"
    if (ours, theirs) == (["Z", "T"], ["Z", "E"]) and last[2:3] == ["54000"]:
        return "a limit fails the transaction only behind what was sent by then"
    if any(frame[2:3] == ["54000"] for frame in before) and {"42P05", "26000"} & {*ours[2:], *theirs[2:]}:
        return "what names are behind an exceeded limit"
    if ["E", "ERROR", "22P04"] in [frame[:3] for frame in before] and syncs_among_data(sequence):
        return "a Sync among bad COPY data"
    if ours[2:3] == ["34000"] and theirs == ["n", ""] and status == ["E"]:
        return "a portal whose Bind was denied, which a failed transaction keeps as an empty one"
    if ours[2:3] == ["54000"] and says(".*EXECUTE x") and says(".*pgbench_tellers"):
        return "a limit of what EXECUTE could run"
    if "25P02" in ours and says("Query .(ROLLBACK|COMMIT).*ssn"):
        return "a look ahead in a failed transaction, which the query would end"
    return None


def syncs_among_data(sequence):
    """Whether a Sync comes between COPY data and what ends them: only the server knows if it is still reading."""
    said = ",".join(message.what[:4] for message in sequence.messages)
    return re.search("Copy,(Flus,)*Sync,((Flus|Sync),)*Copy", said)


def near(frames, at):
    return frames[max(at - 3, 0) : at + 3]


def committed(frames):
    """Values that came in a transaction which stands, as the client was told beyond all doubt, and how many
    rows it has written in such."""
    told, count, pending, rows, doubt = set(), 0, set(), 0, False
    for tag, rest, *_ in frames:
        if tag == "D":
            pending.update(rest)
        elif tag == "C" and (wrote := re.match(r"(INSERT 0|COPY) (\d+)", rest)):
            rows += int(wrote[2])
        doubt |= tag == "E" or tag == "C" and rest.startswith("ROLLBACK")
        if tag == "Z" and rest == "I":
            if not doubt:
                told, count = told | pending, count + rows
            pending, rows, doubt = set(), 0, False
    return told, count


def tags_of(row):
    return {cell for cell in row if cell and re.fullmatch(r"s\d+_\d+\.\d+", cell)}


def misrecorded(events, frames):
    """Rows in the record whose statement is another's, by their tags, and rows that aren't in it."""
    texts, recorded = {}, set()
    for event in events:
        number, rows = event.get("statement"), []
        if event["type"] == "decision":
            texts[number] = event["text"]
        elif event["type"] == "rows":
            rows = event["rows"]
            recorded.update(*map(tags_of, rows))
        elif event["type"] == "columns":
            rows = [[column["name"] for column in event["columns"]]]
        for row in rows:
            # What these run has its tag elsewhere.
            by_name = texts[number].startswith(("FETCH", "EXECUTE"))
            if not by_name and any(tag not in texts[number] for tag in tags_of(row)):
                yield f"{row} is recorded as of {texts[number]!r}"
    seen = set().union(*[tags_of(frame[1]) for frame in frames if frame[0] == "D"])
    if events and seen - recorded:
        yield f"{seen - recorded} were seen and aren't recorded"


def faults(sequence, through, direct, events, ledgers):
    """What is wrong with one session, and why Weir did otherwise than the server, if it may."""
    found, reason = [], None
    if through["leaks"]:
        found.append(f"masked values were seen: {through['leaks']}")
    found += [f"no answer from {side}" for side, told in [("Weir", through), ("the server", direct)] if told["hangs"]]
    ours, theirs = through["frames"], [as_weir_would(frame) for frame in direct["frames"]]
    if differs := difference(sequence, ours, theirs):
        at, reason = differs
        if reason is None:
            found.append(f"at {at}: {near(ours, at)} is not {near(theirs, at)}")
    written, twins = ledgers
    told, count = committed(ours)
    if lost := told & sequence.returned - written:
        found.append(f"told to be committed, and isn't: {lost}")
    # Where Weir has denied a BEGIN, say, more is committed than by the server itself, and the client is told so.
    known = reason and not (written - told) & sequence.returned and len(written) <= count
    if written - twins and not known or written != twins and not reason:
        found.append(f"committed: {written} is not {twins}")
    for event in events:
        if reason in ENDS and event["type"] == "close" and ENDS[reason] not in event["detail"]:
            found.append(f"the session ended: {event['detail']}")
    return found + list(misrecorded(events, ours)), reason


def run(side, seed, count):
    def one(number):
        sequence = Sequence(seed, number)
        return {"session": number, **Session(sequence, side).run()}

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for outcome in pool.map(one, range(count)):
            print(json.dumps(outcome))


def compare(seed, through, direct, records, ledgers):
    def lines(path):
        return [json.loads(line) for line in open(path)]

    events, opened, written = collections.defaultdict(list), None, collections.defaultdict(lambda: (set(), set()))
    for event in lines(records):
        opened = event["claimed_user"] if event["type"] == "open" else opened
        events[opened].append(event)
    for line in open(ledgers):
        side, tag = line.split()
        written[tag.split(".")[0]][side == "direct"].add(tag)
    reasons, failed = collections.Counter(), 0
    for ours, theirs in zip(lines(through), lines(direct), strict=True):
        sequence = Sequence(seed, ours["session"])
        found, reason = faults(sequence, ours, theirs, events[sequence.name], written[sequence.name])
        reasons[reason or "the same"] += 1
        failed += bool(found)
        for fault in found:
            print(f"session {ours['session']} of seed {seed}: {fault}")
        if found:
            show(seed, ours["session"])
    print(f"seed {seed}: {dict(reasons)}, {failed} wrong")
    # Most sessions are held against the server to their end.
    sys.exit(failed > 0 or reasons["the same"] < 0.8 * reasons.total())


def show(seed, number):
    for message in Sequence(seed, int(number)).messages:
        what = message.what
        print("   ", what if len(what) < 300 else what[:60] + "...")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", side, seed, count]:
            run(side, seed, int(count))
        case ["compare", *rest]:
            compare(*rest)
        case ["show", seed, number]:
            show(seed, number)
