//! One test's own slice, pins and network namespace, the agents in them, and a daemon. Everything is
//! removed when the stage is dropped.
#![expect(
    clippy::unwrap_used,
    reason = "a part of tests, which end at what they don't expect"
)]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::utsname::uname;
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use weir::capture::{
    Capture, Coverage, Detection, Egress, Hook, Inherited, Miss, NamespaceEvent, NetnsId, Origin,
    Origins, Settings, Strangers, Watcher,
};

/// Protected addresses that exist nowhere.
pub(crate) const V4: &str = "10.77.0.1:5432";
pub(crate) const V6: &str = "[fd77::1]:5432";

/// In the environment of a process that plays the daemon: its slice and its pins.
pub(crate) const ROLE: &str = "WEIR_TEST_DAEMON";

/// In the environment of a process that plays the first one of a new namespace: its cgroup.
pub(crate) const NEWCOMER: &str = "WEIR_TEST_NEWCOMER";

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Stage {
    pub(crate) slice: String,
    pub(crate) pins: PathBuf,
    pub(crate) namespace: String,
    root: PathBuf,
    scratch: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weir-test-{}-{count}", std::process::id());
        let stage = Self {
            slice: format!("{name}.slice"),
            pins: Path::new("/sys/fs/bpf").join(&name),
            root: cgroup_root(),
            namespace: name,
            scratch: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(stage.slice_path()).expect("these tests need root");
        run(Command::new("ip").args(["netns", "add", &stage.namespace]));
        stage.ip(&["link", "set", "lo", "up"]);
        stage
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            slice: self.slice.clone().into(),
            pin_dir: self.pins.clone(),
            cgroup_root: None,
            require: Vec::new(),
            governed: false,
        }
    }

    pub(crate) fn slice_path(&self) -> PathBuf {
        self.root.join(&self.slice)
    }

    /// A file that doesn't exist until a test makes it.
    pub(crate) fn flag(&self) -> PathBuf {
        self.scratch.path().join("flag")
    }

    /// A path that nobody has used.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// `ip` inside the stage's namespace.
    pub(crate) fn ip(&self, arguments: &[&str]) {
        run(Command::new("ip")
            .args(["-n", &self.namespace])
            .args(arguments));
    }

    /// A python program as an agent in the stage's namespace; it runs until it is dropped, or its end.
    pub(crate) fn agent(&self, script: &str, arguments: &[&str]) -> Agent {
        self.agent_in("", script, arguments)
    }

    /// The same in a cgroup below the slice.
    pub(crate) fn agent_in(&self, child: &str, script: &str, arguments: &[&str]) -> Agent {
        let cgroup = self.slice_path().join(child);
        fs::create_dir_all(&cgroup).unwrap();
        Agent::spawn(Some(&cgroup), Some(&self.namespace), script, arguments)
    }

    /// An agent in the namespace of the daemon.
    pub(crate) fn agent_on_host(&self, script: &str, arguments: &[&str]) -> Agent {
        self.agent_on_host_in("", script, arguments)
    }

    /// The same in a cgroup below the slice.
    pub(crate) fn agent_on_host_in(&self, child: &str, script: &str, arguments: &[&str]) -> Agent {
        let cgroup = self.slice_path().join(child);
        fs::create_dir_all(&cgroup).unwrap();
        Agent::spawn(Some(&cgroup), None, script, arguments)
    }

    /// A process in the stage's namespace that isn't an agent.
    pub(crate) fn outsider(&self, script: &str, arguments: &[&str]) -> Agent {
        Agent::spawn(None, Some(&self.namespace), script, arguments)
    }

    /// What an agent's attempt to connect comes to.
    pub(crate) fn attempt(&self, family: &str, address: &str, port: &str, kind: &str) -> String {
        self.agent(super::TRY, &[family, address, port, kind])
            .output()
    }

    /// A server outside of the slice, in the stage's namespace.
    pub(crate) fn server(&self, script: &str, address: &str, port: &str) -> Server {
        Server::of(self.outsider(script, &[address, port]))
    }

    /// A server outside of the slice, in the namespace of the daemon.
    pub(crate) fn server_on_host(&self, script: &str, address: &str, port: &str) -> Server {
        Server::of(Agent::spawn(None, None, script, &[address, port]))
    }

    /// A process in the namespace of the daemon that isn't an agent.
    pub(crate) fn outsider_on_host(&self, script: &str, arguments: &[&str]) -> Agent {
        Agent::spawn(None, None, script, arguments)
    }

    /// How long the first process of a namespace is refused, from its first moment there on.
    pub(crate) fn wait_of_a_newcomer(&self) -> Duration {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "role_of_a_newcomer", "--nocapture"])
            .env(NEWCOMER, self.slice_path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let micros = text
            .lines()
            .find_map(|line| line.strip_prefix("served after "));
        Duration::from_micros(micros.expect("the newcomer is served").parse().unwrap())
    }

    /// A daemon in a process of its own, serving, with `V4` protected.
    pub(crate) fn daemon_process(&self) -> Child {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "role_of_a_daemon", "--nocapture"])
            .env(ROLE, format!("{}\n{}", self.slice, self.pins.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines
            .map_while(Result::ok)
            .any(|line| line.contains("serving"));
        assert!(ready, "the daemon's process has ended");
        child
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        remove_cgroup(&self.slice_path());
        let _ = fs::remove_dir_all(&self.pins);
        let _ = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .status();
    }
}

/// Kills what is left in a cgroup of the stage's and removes it. Its children first.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::write(path.join("cgroup.kill"), "1");
    for _ in 0..100 {
        if fs::remove_dir(path).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    line.and_then(|line| line.split(' ').nth(1))
        .expect("cgroup2 is mounted")
        .into()
}

/// The hooks that this machine can't have, by what it says of itself.
pub(crate) fn expected_gaps() -> Vec<Hook> {
    let names = uname().unwrap();
    let release = names.release().to_str().unwrap().to_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|number| number.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let mut gaps = Vec::new();
    if version < (6, 7) {
        gaps.push(Hook::ConnectUnix);
    }
    if !modules.trim().split(',').any(|module| module == "bpf") {
        gaps.push(Hook::Lsm);
    }
    gaps
}

/// A number for this run's addresses on the host, where others may run the same tests.
pub(crate) fn number() -> u32 {
    std::process::id() % 250 + 1
}

/// `ip` in the namespace of the daemon.
pub(crate) fn host_ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')));
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

pub(crate) struct Server {
    pub(crate) port: String,
    agent: Agent,
}

impl Server {
    pub(crate) fn of(mut agent: Agent) -> Self {
        let line = agent.line();
        let port = line.strip_prefix("ready ").expect("the server starts");
        Self {
            port: port.to_owned(),
            agent,
        }
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        self.agent.line()
    }
}

/// A process that a test started; killed when dropped.
pub(crate) struct Agent {
    pub(crate) pid: u32,
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Agent {
    fn spawn(cgroup: Option<&Path>, netns: Option<&str>, script: &str, arguments: &[&str]) -> Self {
        let enter = match cgroup {
            Some(cgroup) => format!("echo $$ > {}/cgroup.procs && ", cgroup.display()),
            None => String::new(),
        };
        let netns = netns.map_or(String::new(), |name| format!("ip netns exec {name} "));
        let mut child = Command::new("sh")
            .args([
                "-c",
                &format!("{enter}exec {netns}python3 -c \"$0\" \"$@\""),
                script,
            ])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            pid: child.id(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Waits until it has printed this line.
    pub(crate) fn wait_for(&mut self, expected: &str) {
        assert_eq!(self.line(), expected);
    }

    /// Gives it a line to read.
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits for the end, and gives what was printed.
    pub(crate) fn output(mut self) -> String {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        text.trim_end().to_owned()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// What this process has logged.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn contains(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock().unwrap()).contains(text)
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to collect the log of daemons that are started from now on in this process.
pub(crate) fn log() -> Log {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .init();
    log
}

/// One connection that the daemon has accepted.
pub(crate) struct Accepted {
    pub(crate) namespace: NetnsId,
    pub(crate) listener: SocketAddr,
    pub(crate) origin: Result<Origin, Miss>,
    /// A second attempt to take the same origin.
    pub(crate) again: Result<Origin, Miss>,
}

pub(crate) struct Daemon {
    capture: Capture,
    accepted: mpsc::Receiver<Accepted>,
    downs: mpsc::Receiver<NetnsId>,
    detected: mpsc::Receiver<Detection>,
    serving: JoinHandle<()>,
}

impl Daemon {
    /// A daemon in this process that protects these endpoints.
    pub(crate) fn start(stage: &Stage, endpoints: &[&str]) -> Self {
        Self::start_with(&stage.settings(), endpoints)
    }

    /// The same with settings of its own.
    pub(crate) fn start_with(settings: &Settings, endpoints: &[&str]) -> Self {
        let mut daemon = Self::begin(settings);
        daemon.set_endpoints(endpoints);
        daemon
    }

    /// A daemon that protects these endpoints, and has every cgroup have an egress policy.
    pub(crate) fn start_governing(stage: &Stage, endpoints: &[&str]) -> Self {
        let settings = Settings {
            governed: true,
            ..stage.settings()
        };
        Self::start_with(&settings, endpoints)
    }

    /// A daemon that leaves the protected endpoints as it finds them.
    pub(crate) fn resume(stage: &Stage) -> Self {
        Self::begin(&stage.settings())
    }

    fn begin(settings: &Settings) -> Self {
        let mut capture = Capture::start(settings).unwrap();
        let watcher = capture.watch(Inherited::default()).unwrap();
        let mut detections = capture.detect().unwrap();
        let origins = capture.origins();
        let (connections, accepted) = mpsc::channel();
        let (down, downs) = mpsc::channel();
        let (detection, detected) = mpsc::channel();
        let serving = std::thread::spawn(move || serve(watcher, &origins, &connections, &down));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            while let Some(next) = runtime.block_on(detections.next()) {
                let _ = detection.send(next);
            }
        });
        Self {
            capture,
            accepted,
            downs,
            detected,
            serving,
        }
    }

    /// Has endpoints be learned, and mean this one.
    pub(crate) fn govern(&self, meant: &str) {
        self.capture.govern(Some(meant.parse().unwrap()));
    }

    /// The next connection that was ended for what it said.
    pub(crate) fn detected(&self) -> Detection {
        self.detected
            .recv_timeout(PATIENCE)
            .expect("a connection is ended")
    }

    /// What else was ended by now.
    pub(crate) fn other_detections(&self) -> Vec<Detection> {
        self.detected.try_iter().collect()
    }

    pub(crate) fn egress(&mut self) -> (Egress, Strangers) {
        self.capture.egress().unwrap()
    }

    /// What is missing is in the test's output.
    pub(crate) fn lacks(&self, hook: Hook) -> bool {
        let mut gaps = self.capture.gaps().iter();
        let gap = gaps.find(|gap| gap.hook == hook);
        gap.inspect(|gap| println!("{hook:?}: {}", gap.why))
            .is_some()
    }

    pub(crate) fn coverage(&self, namespace: NetnsId) -> Coverage {
        self.capture.coverages().of(namespace)
    }

    /// Ends, with all of its listeners.
    pub(crate) fn die(self) {
        drop(self.capture);
        self.serving.join().unwrap();
    }

    pub(crate) fn set_endpoints(&mut self, endpoints: &[&str]) {
        let addresses = endpoints.iter().map(|e| e.parse().unwrap()).collect();
        self.capture.set_endpoints(&[addresses]).unwrap();
    }

    /// The next connection.
    pub(crate) fn accepted(&self) -> Accepted {
        self.accepted
            .recv_timeout(PATIENCE)
            .expect("a connection arrives")
    }

    /// Waits until this namespace went down.
    pub(crate) fn wait_for_down(&self, namespace: NetnsId) {
        while self
            .downs
            .recv_timeout(PATIENCE)
            .expect("a namespace goes down")
            != namespace
        {}
    }
}

/// Accepts on all listeners, takes each connection's origin (twice), and greets those that have one.
fn serve(
    mut watcher: Watcher,
    origins: &Origins,
    connections: &mpsc::Sender<Accepted>,
    down: &mpsc::Sender<NetnsId>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut tasks = std::collections::HashMap::new();
        while let Some(event) = watcher.next().await {
            match event {
                NamespaceEvent::Up { id, listeners, .. } => {
                    let accepting = listeners.into_iter().map(|listener| {
                        let (origins, connections) = (origins.clone(), connections.clone());
                        tokio::task::spawn_local(accept(id, listener, origins, connections))
                    });
                    tasks.insert(id, accepting.collect::<Vec<_>>());
                }
                NamespaceEvent::Down { id } => {
                    tasks
                        .remove(&id)
                        .into_iter()
                        .flatten()
                        .for_each(|task| task.abort());
                    let _ = down.send(id);
                }
            }
        }
    });
}

async fn accept(
    namespace: NetnsId,
    listener: std::net::TcpListener,
    origins: Origins,
    connections: mpsc::Sender<Accepted>,
) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (mut stream, peer) = listener.accept().await.unwrap();
        let origin = origins.take(&stream, peer);
        let again = origins.take(&stream, peer);
        if origin.is_ok() {
            let _ = stream.write_all(b"weir").await;
        }
        let listener = listener.local_addr().unwrap();
        let _ = connections.send(Accepted {
            namespace,
            listener,
            origin,
            again,
        });
    }
}

/// The life of a process that comes into being in a namespace of its own, and dials at once.
pub(crate) fn dial_until_served() {
    let cgroup = PathBuf::from(std::env::var_os(NEWCOMER).unwrap());
    fs::write(cgroup.join("cgroup.procs"), "0").unwrap();
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let begin = Instant::now();
    run(Command::new("ip").args(["link", "set", "lo", "up"]));
    let mut greeting = [0; 4];
    let mut serve = || TcpStream::connect(V4)?.read_exact(&mut greeting);
    while serve().is_err() {
        assert!(begin.elapsed() < PATIENCE);
    }
    println!("\nserved after {}", begin.elapsed().as_micros());
}

/// The life of a process that plays the daemon.
pub(crate) fn serve_until_killed() {
    let role = std::env::var(ROLE).unwrap();
    let (slice, pins) = role.split_once('\n').unwrap();
    let settings = Settings {
        slice: slice.into(),
        pin_dir: pins.into(),
        cgroup_root: None,
        require: Vec::new(),
        governed: false,
    };
    let mut capture = Capture::start(&settings).unwrap();
    let database = [V4.parse().unwrap()].into();
    capture.set_endpoints(&[database]).unwrap();
    let watcher = capture.watch(Inherited::default()).unwrap();
    println!("serving");
    let (connections, _accepted) = mpsc::channel();
    let (down, _downs) = mpsc::channel();
    serve(watcher, &capture.origins(), &connections, &down);
}
