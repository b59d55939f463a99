"""Asks for protocol 2.0 and says what the answer is: fields of an ErrorResponse, then `end`."""

import os
import socket
import struct

address = (os.environ.get("PGHOSTADDR") or os.environ["PGHOST"], int(os.environ["PGPORT"]))
with socket.create_connection(address, timeout=10) as tcp:
    tcp.sendall(struct.pack("!II", 8, 2 << 16))
    answer = b""
    while more := tcp.recv(4096):
        answer += more
assert answer[:1] == b"E", answer
fields = {f[:1].decode(): f[1:].decode() for f in answer[5:].split(b"\0") if f}
print(fields["S"], fields["C"], fields["M"])
