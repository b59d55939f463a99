//! Unix sockets of databases, and Weir's own.

use weir::capture::Hook;

use crate::stage::{Daemon, Stage, V4};

/// Listens at each name in a directory of its own and in the abstract namespace, as servers outside
/// of the slice would.
const SERVERS: &str = r#"
import os, socket, sys, time
directory, *names = sys.argv[1:]
os.makedirs(directory + '/deep/er')
listeners = []
for name in names:
    for address in (f'{directory}/{name}', f'{directory}/deep/er/{name}', f'\0{directory}/{name}'):
        s = socket.socket(socket.AF_UNIX)
        s.bind(address)
        s.listen()
        listeners.append(s)
print('ready', flush=True)
time.sleep(60)
"#;

/// Connects to each name in every way that an address can be written.
const CLIENT: &str = r#"
import ctypes, errno, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
directory, *names = sys.argv[1:]
os.chdir(directory)
def connect(address, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, kind)
    raw = struct.pack('=H', socket.AF_UNIX) + address
    if libc.connect(s.fileno(), raw, len(raw)) == 0:
        return 'connected'
    return errno.errorcode[ctypes.get_errno()]
for name in names:
    full, short = f'{directory}/{name}'.encode(), name.encode()
    addresses = [full, full + b'\0', full + b'\0garbage', short, b'./' + short, b'.//' + short, b'deep/er/' + short,
                 b'deep/../' + short, b'\0' + full]
    print(name, *sorted({connect(address) for address in addresses}))
print('refused', connect(b'weir.sock', socket.SOCK_SEQPACKET), connect(b'x' * 108), connect(b'\0' + b'y' * 107))
"#;

#[test]
fn sockets_of_databases_and_weirs_own_can_not_be_connected_to() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &[V4]);
    assert!(
        !daemon.lacks(Hook::ConnectUnix),
        "these tests need Linux 6.7"
    );
    let forbidden = [
        ".s.PGSQL.5432",
        ".s.PGSQL.1",
        ".s.PGSQL.65432",
        "mysqld.sock",
        "mysql.sock",
        "mysqlx.sock",
        "weir.sock",
    ];
    let allowed = [
        "x",
        "s",
        "app.sock",
        "notmysqld.sock",
        "mysqld.sock.lock",
        "a-much-longer-name-than-the-window.sock",
        "s.PGSQL.5432",
    ];
    let directory = stage.scratch("sockets");
    let names = [forbidden.as_slice(), &allowed].concat();
    let arguments = [&[directory.to_str().unwrap()], names.as_slice()].concat();
    let mut servers = stage.outsider(SERVERS, &arguments);
    servers.wait_for("ready");
    let output = stage.agent(CLIENT, &arguments).output();
    let mut lines = output.lines();
    for name in forbidden {
        assert_eq!(lines.next().unwrap(), format!("{name} EPERM"));
    }
    for name in allowed {
        assert_eq!(lines.next().unwrap(), format!("{name} connected"));
    }
    // The kernel's own answers for what isn't forbidden.
    assert_eq!(lines.next(), Some("refused EPERM ENOENT ECONNREFUSED"));
    let outside = stage.outsider(CLIENT, &arguments).output();
    assert!(
        outside.starts_with(".s.PGSQL.5432 connected\n"),
        "{outside}"
    );
}
