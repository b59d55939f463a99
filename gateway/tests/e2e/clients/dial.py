"""Opens sessions, one after the other, until a file exists, and says what comes of each.

Arguments: a name, the file, and how often at most. Each session claims the user `NAME-NUMBER` and asks
for one value. Prints `OUTCOME USER MILLISECONDS`: the outcome is the value, the SQLSTATE of the error,
`asked:N` if it was asked to log in by method N, or what happened to the connection: `refused`,
`cut` (once it stood), `timeout`, or the name of another error.
"""

import errno
import os
import socket
import struct
import sys
import time

address = (os.environ["PGHOST"], int(os.environ["PGPORT"]))
SQL = b"SELECT ssn FROM customers WHERE id = 1\0"


def messages(tcp):
    buffer = b""
    while True:
        while len(buffer) >= 5 and len(buffer) > (length := struct.unpack_from("!I", buffer, 1)[0]):
            yield buffer[:1], buffer[5 : 1 + length]
            buffer = buffer[1 + length :]
        more = tcp.recv(4096)
        if not more:
            raise EOFError
        buffer += more


def session(user):
    start = f"user\0{user}\0database\0app\0\0".encode()
    with socket.socket() as tcp:
        tcp.settimeout(20)
        try:
            tcp.connect(address)
        except ConnectionRefusedError:
            return "refused"
        except ConnectionResetError:
            # It stood, and was reset before this process was told: what is refused isn't reset.
            return "cut"
        try:
            tcp.sendall(struct.pack("!II", 8 + len(start), 3 << 16) + start)
            value, asked = None, False
            for kind, body in messages(tcp):
                if kind == b"R" and (method := struct.unpack_from("!I", body)[0]):
                    return f"asked:{method}"
                if kind == b"E":
                    fields = {f[:1]: f[1:] for f in body.split(b"\0") if f}
                    return fields[b"C"].decode()
                if kind == b"D":
                    value = body[6:].decode()
                if kind == b"Z" and asked:
                    return value
                if kind == b"Z":
                    tcp.sendall(b"Q" + struct.pack("!I", 4 + len(SQL)) + SQL)
                    asked = True
        except (EOFError, ConnectionResetError, BrokenPipeError):
            return "cut"


def main(name, flag, most):
    for number in range(int(most)):
        if os.path.exists(flag):
            break
        user, start = f"{name}-{number}", time.monotonic()
        try:
            outcome = session(user)
        except TimeoutError:
            outcome = "timeout"
        except OSError as e:
            outcome = errno.errorcode[e.errno]
        print(outcome, user, round((time.monotonic() - start) * 1000), flush=True)


main(*sys.argv[1:])
