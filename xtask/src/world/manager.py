"""The part of systemd that a restart of Weir needs, by sd_notify(3) and sd_listen_fds(3).

`manager.py keep DIR`: hears what a service tells at DIR/notify, keeps the descriptors that it wants
kept, and gives them to whoever asks at DIR/store. Prints each line that it hears.
`manager.py start DIR PROGRAM ARG..`: becomes the service, with what is kept.
"""

import fcntl
import os
import select
import socket
import sys

MOST = 253  # SCM_MAX_FD


def keep(folder):
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(f"{folder}/notify")
    asked = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    asked.bind(f"{folder}/store")
    asked.listen()
    print("keeping", flush=True)
    store = []
    while True:
        ready, _, _ = select.select([notify, asked], [], [])
        # First: what a service has told before it died counts for the next one.
        if notify in ready:
            message, fds, _, _ = socket.recv_fds(notify, 1 << 16, MOST)
            lines = message.decode().splitlines()
            fields = dict(line.split("=", 1) for line in lines)
            name = fields.get("FDNAME", "stored")
            if fields.get("FDSTOREREMOVE") == "1":
                for _, fd in (kept for kept in store if kept[0] == name):
                    os.close(fd)
                store = [kept for kept in store if kept[0] != name]
            if fields.get("FDSTORE") == "1":
                store += [(name, fd) for fd in fds]
            for line in lines:
                print(line, flush=True)
            print("stored", *(name for name, _ in store), flush=True)
        elif asked in ready:
            client, _ = asked.accept()
            names = ":".join(name for name, _ in store)
            with client:
                socket.send_fds(client, [f"{names}\n".encode()], [fd for _, fd in store])


def start(folder, program):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as keeper:
        keeper.connect(f"{folder}/store")
        names, fds, _, _ = socket.recv_fds(keeper, 1 << 16, MOST)
    # Out of the way of the places where they go.
    away = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 300) for fd in fds]
    for fd in fds:
        os.close(fd)
    for place, fd in enumerate(away, 3):
        os.dup2(fd, place)
    os.environ["NOTIFY_SOCKET"] = f"{folder}/notify"
    if fds:
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.environ["LISTEN_FDS"] = str(len(fds))
        os.environ["LISTEN_FDNAMES"] = names.decode().strip()
    os.execv(program[0], program)


if sys.argv[1] == "keep":
    keep(sys.argv[2])
else:
    start(sys.argv[2], sys.argv[3:])
