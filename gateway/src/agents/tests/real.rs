//! containerd (by its CRI socket, as a kubelet would) and Podman (by its API socket), with
//! containers of an image that is made here. Both run beside whatever else is on the machine.

use std::fs;
use std::process::{Child, Command, Stdio};

use prost::Message;
use sha2::{Digest, Sha256};

use super::*;
use crate::agents::cri::Client;
use crate::identity::PodSelector;

const IMAGE: &str = "weir.test/box:1";
const UID: &str = "8f7d2f1c-5a0e-4c57-9a55-0d9c6f7b1e23";

/// A folder and a cgroup, gone with the value.
struct Site {
    dir: tempfile::TempDir,
    root: PathBuf,
    /// The containers' parent, relative to `root`.
    parent: String,
}

impl Site {
    fn new(kind: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("weir-agents-").tempdir();
        Self {
            dir: dir.unwrap(),
            root: cgroup_root(None).unwrap(),
            parent: format!("weir-agents-{kind}-{}", std::process::id()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An image with busybox alone, as `docker save` would write it.
    fn image(&self) -> PathBuf {
        let bin = self.path("layer/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy("/usr/bin/busybox", bin.join("busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", bin.join("sleep")).unwrap();
        self.tar("layer", "image.layer", &["."]);
        let layer = fs::read(self.path("image.layer")).unwrap();
        let layer = hex(&Sha256::digest(layer));
        let config = format!(
            r#"{{"architecture":"{}","os":"linux","config":{{"Cmd":["/bin/sleep","600"]}},
            "rootfs":{{"type":"layers","diff_ids":["sha256:{layer}"]}}}}"#,
            if cfg!(target_arch = "aarch64") {
                "arm64"
            } else {
                "amd64"
            }
        );
        let name = format!("{}.json", hex(&Sha256::digest(&config)));
        let manifest =
            format!(r#"[{{"Config":"{name}","RepoTags":["{IMAGE}"],"Layers":["layer.tar"]}}]"#);
        let image = self.path("image");
        fs::create_dir_all(&image).unwrap();
        fs::rename(self.path("image.layer"), image.join("layer.tar")).unwrap();
        fs::write(image.join(&name), config).unwrap();
        fs::write(image.join("manifest.json"), manifest).unwrap();
        self.tar("image", "image.tar", &["manifest.json", &name, "layer.tar"]);
        self.path("image.tar")
    }

    fn tar(&self, from: &str, to: &str, files: &[&str]) {
        let mut tar = Command::new("tar");
        tar.arg("-C")
            .arg(self.path(from))
            .arg("-cf")
            .arg(self.path(to));
        run(tar.args(files));
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Kills what a failed test left running.
        let _ = fs::write(self.root.join(&self.parent).join("cgroup.kill"), "1");
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let cgroups = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (place, kind) = (fields.next()?, fields.next()?);
            kind.starts_with("cgroup").then(|| Path::new(place))
        });
        // On a hybrid host the runtimes make them in each hierarchy.
        for mount in cgroups {
            remove(&mount.join(&self.parent));
        }
    }
}

/// Removes a cgroup from below; those that are being emptied take a moment.
fn remove(cgroup: &Path) {
    for _ in 0..50 {
        for child in fs::read_dir(cgroup).into_iter().flatten().flatten() {
            if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&child.path());
            }
        }
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => return,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A daemon in the background, ended by its own pid.
struct Daemon(Child);

impl Daemon {
    fn start(command: &mut Command, log: &Path, socket: &Path) -> Self {
        let log = fs::File::create(log).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut daemon = Self(command.stdin(Stdio::null()).spawn().unwrap());
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            let ended = daemon.0.try_wait().unwrap();
            assert!(ended.is_none(), "{command:?} ended: {ended:?}");
            assert!(start.elapsed() < Duration::from_secs(30), "{command:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill};
        let _ = kill(
            nix::unistd::Pid::from_raw(self.0.id().cast_signed()),
            Signal::SIGTERM,
        );
        let start = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn agents(selectors: Vec<(&str, Selector)>, settings: Settings, site: &Site) -> Agents {
    let named = selectors.into_iter().map(|(name, s)| (agent(name), s));
    Agents::new(Matcher::new(named.collect()), settings, site.root.clone())
}

fn name(agents: &Agents, cgroup: &str) -> Result<String, Unknown> {
    block_on(agents.identify(cgroup, process())).map(|i| i.agent.name.to_string())
}

/// The agent `coder`, asked for the first time and once more.
fn known_soon(agents: &Agents, cgroup: &str) {
    let start = Instant::now();
    assert_eq!(name(agents, cgroup).unwrap(), "coder");
    let first = start.elapsed();
    let start = Instant::now();
    assert_eq!(name(agents, cgroup).unwrap(), "coder");
    let again = start.elapsed();
    println!("first {first:?}, then {again:?}");
    assert!(first < PATIENCE && again < first, "{first:?}, {again:?}");
}

/// What a kubelet asks for; the field numbers are those of CRI's `api.proto`.
mod kubelet {
    use super::*;

    #[derive(Clone, Message)]
    pub(super) struct Metadata {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(string, tag = "2")]
        pub(super) uid: String,
        #[prost(string, tag = "3")]
        pub(super) namespace: String,
    }

    #[derive(Clone, Message)]
    pub(super) struct NamespaceOption {
        #[prost(int32, tag = "1")]
        pub(super) network: i32,
    }

    #[derive(Clone, Message)]
    pub(super) struct SecurityContext {
        #[prost(message, optional, tag = "1")]
        pub(super) namespaces: Option<NamespaceOption>,
    }

    #[derive(Clone, Message)]
    pub(super) struct LinuxSandbox {
        #[prost(string, tag = "1")]
        pub(super) cgroup_parent: String,
        #[prost(message, optional, tag = "2")]
        pub(super) security: Option<SecurityContext>,
    }

    #[derive(Clone, Message)]
    pub(super) struct SandboxConfig {
        #[prost(message, optional, tag = "1")]
        pub(super) metadata: Option<Metadata>,
        #[prost(btree_map = "string, string", tag = "6")]
        pub(super) labels: crate::identity::Labels,
        #[prost(message, optional, tag = "8")]
        pub(super) linux: Option<LinuxSandbox>,
    }

    #[derive(Clone, Message)]
    pub(super) struct RunPodSandbox {
        #[prost(message, optional, tag = "1")]
        pub(super) config: Option<SandboxConfig>,
    }

    #[derive(Clone, Message)]
    pub(super) struct Image {
        #[prost(string, tag = "1")]
        pub(super) image: String,
    }

    #[derive(Clone, Message)]
    pub(super) struct LinuxContainer {
        #[prost(message, optional, tag = "2")]
        pub(super) security: Option<ContainerSecurity>,
    }

    #[derive(Clone, Message)]
    pub(super) struct ContainerSecurity {
        #[prost(message, optional, tag = "3")]
        pub(super) namespaces: Option<NamespaceOption>,
    }

    #[derive(Clone, Message)]
    pub(super) struct ContainerConfig {
        #[prost(message, optional, tag = "1")]
        pub(super) metadata: Option<Metadata>,
        #[prost(message, optional, tag = "2")]
        pub(super) image: Option<Image>,
        #[prost(btree_map = "string, string", tag = "9")]
        pub(super) labels: crate::identity::Labels,
        #[prost(message, optional, tag = "15")]
        pub(super) linux: Option<LinuxContainer>,
    }

    #[derive(Clone, Message)]
    pub(super) struct CreateContainer {
        #[prost(string, tag = "1")]
        pub(super) sandbox: String,
        #[prost(message, optional, tag = "2")]
        pub(super) config: Option<ContainerConfig>,
        #[prost(message, optional, tag = "3")]
        pub(super) sandbox_config: Option<SandboxConfig>,
    }

    /// A question or an answer that is an id.
    #[derive(Clone, Message)]
    pub(super) struct Id {
        #[prost(string, tag = "1")]
        pub(super) id: String,
    }

    #[derive(Clone, Message)]
    pub(super) struct Nothing {}
}

/// `NamespaceMode.NODE`: a network of its own would need CNI's plugins.
const NODE: i32 = 2;

struct Containerd {
    _daemon: Daemon,
    socket: PathBuf,
}

impl Containerd {
    fn start(site: &Site) -> Self {
        let socket = site.path("containerd.sock");
        let config = format!(
            r#"version = 2
root = {root:?}
state = {state:?}
[grpc]
address = {socket:?}
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
"#,
            root = site.path("root"),
            state = site.path("state"),
        );
        fs::write(site.path("config.toml"), config).unwrap();
        let mut command = Command::new("containerd");
        command.arg("--config").arg(site.path("config.toml"));
        let daemon = Daemon::start(&mut command, &site.path("log"), &socket);
        let mut import = Command::new("ctr");
        import
            .arg("--address")
            .arg(&socket)
            .args(["-n", "k8s.io", "images", "import"]);
        run(import.args(["--snapshotter", "native"]).arg(site.image()));
        Self {
            _daemon: daemon,
            socket,
        }
    }

    fn call<Q: Message, A: Message + Default>(&self, method: &str, question: &Q) -> A {
        block_on(async {
            let mut client = Client::connect(&self.socket).await.unwrap();
            client.call(method, question).await.unwrap()
        })
    }

    /// A pod and its container, running: their ids.
    fn pod(&self, site: &Site) -> (String, String) {
        let namespaces = Some(kubelet::NamespaceOption { network: NODE });
        let config = kubelet::SandboxConfig {
            metadata: Some(kubelet::Metadata {
                name: "coder-0".into(),
                uid: UID.into(),
                namespace: "agents".into(),
            }),
            labels: [("app".to_owned(), "coder".to_owned())].into(),
            linux: Some(kubelet::LinuxSandbox {
                cgroup_parent: format!("/{}/pod{UID}", site.parent),
                security: Some(kubelet::SecurityContext {
                    namespaces: namespaces.clone(),
                }),
            }),
        };
        let question = kubelet::RunPodSandbox {
            config: Some(config.clone()),
        };
        let sandbox: kubelet::Id = self.call("RunPodSandbox", &question);
        let question = kubelet::CreateContainer {
            sandbox: sandbox.id.clone(),
            config: Some(kubelet::ContainerConfig {
                metadata: Some(kubelet::Metadata {
                    name: "agent".into(),
                    ..kubelet::Metadata::default()
                }),
                image: Some(kubelet::Image {
                    image: IMAGE.into(),
                }),
                labels: [("role".to_owned(), "agent".to_owned())].into(),
                linux: Some(kubelet::LinuxContainer {
                    security: Some(kubelet::ContainerSecurity { namespaces }),
                }),
            }),
            sandbox_config: Some(config),
        };
        let container: kubelet::Id = self.call("CreateContainer", &question);
        let _: kubelet::Nothing = self.call("StartContainer", &container);
        (sandbox.id, container.id)
    }
}

fn token(uid: &str) -> String {
    use base64::Engine as _;
    let claims = format!(
        r#"{{"kubernetes.io":{{"namespace":"agents","pod":{{"name":"coder-0","uid":"{uid}"}},
        "serviceaccount":{{"name":"coder","uid":"s"}}}}}}"#
    );
    let claims = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(claims);
    format!("e30.{claims}.c2ln")
}

fn pods(namespace: &str, account: Option<&str>, app: &str) -> Selector {
    Selector {
        kubernetes: Some(PodSelector {
            namespace: namespace.into(),
            service_account: account.map(Into::into),
            labels: [("app".to_owned(), app.to_owned())].into(),
        }),
        ..Selector::default()
    }
}

#[test]
fn a_pod_of_containerd_is_known_by_namespace_account_and_labels() {
    let site = Site::new("cri");
    let containerd = Containerd::start(&site);
    let (sandbox, container) = containerd.pod(&site);
    let cgroup = format!("{}/pod{UID}/{container}", site.parent);
    assert!(site.root.join(&cgroup).exists(), "{cgroup}");

    let settings = Settings {
        containerd: containerd.socket.clone(),
        kubelet: site.path("kubelet"),
        ..Settings::default()
    };
    let coder = || pods("agents", Some("coder"), "coder");
    let fresh = |selector| agents(vec![("coder", selector)], settings.clone(), &site);
    let unmatched = |selector| {
        let found = name(&fresh(selector), &cgroup);
        assert!(matches!(found, Err(Unknown::Unmatched { .. })), "{found:?}");
    };
    unmatched(coder());
    let volume = format!("kubelet/pods/{UID}/volumes/kubernetes.io~projected/kube-api-access-x");
    fs::create_dir_all(site.path(&volume)).unwrap();
    fs::write(site.path(&volume).join("token"), token(UID)).unwrap();
    let known = fresh(coder());
    known_soon(&known, &format!("{cgroup}/child"));
    unmatched(pods("other", None, "coder"));
    unmatched(pods("agents", Some("admin"), "coder"));
    unmatched(pods("agents", None, "other"));
    let role = |value: &str| Selector {
        labels: [("role".to_owned(), value.to_owned())].into(),
        ..Selector::default()
    };
    assert_eq!(name(&fresh(role("agent")), &cgroup).unwrap(), "coder");
    unmatched(role("other"));
    let by_id = Selector {
        container: Some(container[..12].to_owned()),
        ..Selector::default()
    };
    assert_eq!(name(&fresh(by_id), &cgroup).unwrap(), "coder");
    let pod = block_on(known.identify(&cgroup, process()))
        .unwrap()
        .pod
        .unwrap();
    assert_eq!(
        (&*pod.name, &*pod.namespace, &*pod.uid),
        ("coder-0", "agents", UID)
    );

    // A cgroup that is named like the container's and isn't it.
    let forged = format!("{}/forged/pod{UID}/{container}", site.parent);
    fs::create_dir_all(site.root.join(&forged)).unwrap();
    unresolved(
        block_on(known.identify(&forged, process())),
        "another cgroup",
    );
    for dir in Path::new(&forged).ancestors().take(3) {
        fs::remove_dir(site.root.join(dir)).unwrap();
    }
    // One of another pod's uid, and one that nobody knows.
    let other = format!("{}/pod{UID}/{}", site.parent, "0".repeat(64));
    fs::create_dir_all(site.root.join(&other)).unwrap();
    unresolved(
        block_on(known.identify(&other, process())),
        "doesn't know it",
    );
    fs::remove_dir(site.root.join(&other)).unwrap();

    let sandbox = kubelet::Id { id: sandbox };
    let _: kubelet::Nothing = containerd.call("StopPodSandbox", &sandbox);
    unresolved(block_on(known.identify(&cgroup, process())), "is gone");
    let _: kubelet::Nothing = containerd.call("RemovePodSandbox", &sandbox);
}

#[test]
fn a_container_of_podman_is_known_by_its_label() {
    let site = Site::new("podman");
    let socket = site.path("podman.sock");
    let podman = || {
        let mut podman = Command::new("podman");
        podman.arg("--root").arg(site.path("root"));
        podman.arg("--runroot").arg(site.path("run"));
        podman.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
        podman.args(["--runtime", "runc", "--events-backend", "file"]);
        podman
    };
    run(podman().args(["load", "-q", "-i"]).arg(site.image()));
    let mut service = podman();
    service.args(["system", "service", "--time", "0"]);
    service.arg(format!("unix://{}", socket.display()));
    let daemon = Daemon::start(&mut service, &site.path("log"), &socket);
    let mut create = podman();
    create.args([
        "run",
        "--detach",
        "--network",
        "none",
        "--label",
        "agent=coder",
    ]);
    create.args([
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
    ]);
    let id = run(create.args(["--cgroup-parent", &format!("/{}", site.parent), IMAGE]));
    let cgroup = format!("{}/libpod-{id}", site.parent);
    assert!(site.root.join(&cgroup).exists(), "{cgroup}");

    let settings = Settings {
        podman: socket.clone(),
        ..Settings::default()
    };
    let selectors = vec![("coder", labelled("coder")), ("other", labelled("other"))];
    let known = agents(selectors, settings.clone(), &site);
    known_soon(&known, &cgroup);

    // It isn't asked a second time: what is known is told without it, and nothing else.
    drop(daemon);
    assert_eq!(name(&known, &cgroup).unwrap(), "coder");
    let selectors = vec![("coder", labelled("coder"))];
    let forgetful = agents(selectors, settings, &site);
    unresolved(
        block_on(forgetful.identify(&cgroup, process())),
        "can't be asked",
    );
    run(podman().args(["rm", "--force", "--time", "0", &id]));
    unresolved(block_on(known.identify(&cgroup, process())), "is gone");
}
