//! A pod's service account. The container runtime interface doesn't tell it, but the kubelet has
//! written a token of it for the pod (`kube-api-access`), on the host, where no container can.
//!
//! Whoever writes the pod's specification can put another text at the same place. They could as well
//! have named that account: any of the pod's own namespace, and of no other. So the token must be
//! of this pod's uid and namespace, and its signature isn't looked at.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::identity::Pod;

/// No token is longer, in bytes.
const MAX_TOKEN: u64 = 64 << 10;

#[derive(Deserialize)]
struct Claims {
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    pod: Reference,
    serviceaccount: Reference,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    uid: String,
}

/// The account of a pod; `None` if it has no token, or tokens of several.
pub(super) fn service_account(kubelet: &Path, pod: &Pod) -> Option<String> {
    let good = |b: u8| b.is_ascii_hexdigit() || b == b'-';
    if pod.uid.is_empty() || !pod.uid.bytes().all(good) {
        return None;
    }
    let volumes = kubelet
        .join("pods")
        .join(&pod.uid)
        .join("volumes/kubernetes.io~projected");
    let mut found: Option<String> = None;
    for volume in std::fs::read_dir(volumes).ok()?.flatten() {
        let Some(account) = read(&volume.path().join("token")).and_then(|t| account(&t, pod))
        else {
            continue;
        };
        if found.as_ref().is_some_and(|first| *first != account) {
            return None;
        }
        found = Some(account);
    }
    found
}

fn read(file: &Path) -> Option<String> {
    let mut token = String::new();
    let file = File::open(file).ok()?;
    file.take(MAX_TOKEN).read_to_string(&mut token).ok()?;
    Some(token)
}

/// The account in a token, if the token is this pod's.
fn account(token: &str, pod: &Pod) -> Option<String> {
    let payload = token.trim().split('.').nth(1)?;
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
    let Claims { kubernetes } = serde_json::from_slice(&payload).ok()?;
    let own = kubernetes.namespace == pod.namespace && kubernetes.pod.uid == pod.uid;
    own.then_some(kubernetes.serviceaccount.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8f7d2f1c-5a0e-4c57-9a55-0d9c6f7b1e23";

    fn token(namespace: &str, uid: &str, account: &str) -> String {
        let claims = format!(
            r#"{{"aud":["https://kubernetes.default.svc"],"exp":1,"kubernetes.io":{{
            "namespace":"{namespace}","node":{{"name":"n","uid":"u"}},
            "pod":{{"name":"coder-0","uid":"{uid}"}},
            "serviceaccount":{{"name":"{account}","uid":"s"}}}},
            "sub":"system:serviceaccount:x:y"}}"#
        );
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.c2ln", part(r#"{"alg":"RS256"}"#), part(&claims))
    }

    fn found(tokens: &[(&str, String)]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let volumes = dir
            .path()
            .join("pods")
            .join(UID)
            .join("volumes/kubernetes.io~projected");
        for (volume, token) in tokens {
            std::fs::create_dir_all(volumes.join(volume)).unwrap();
            std::fs::write(volumes.join(volume).join("token"), token).unwrap();
        }
        let pod = Pod {
            uid: UID.into(),
            namespace: "agents".into(),
            ..Pod::default()
        };
        service_account(dir.path(), &pod)
    }

    #[test]
    fn the_account_is_that_of_the_pods_own_token() {
        let own = token("agents", UID, "coder");
        assert_eq!(found(&[("a", own.clone())]).as_deref(), Some("coder"));
        let others = [("a", own.clone()), ("b", "of something else".to_owned())];
        assert_eq!(found(&others).as_deref(), Some("coder"));
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("a", own[..40].to_owned())]), None, "half a token");
        let two = [("a", own), ("b", token("agents", UID, "admin"))];
        assert_eq!(found(&two), None, "which of the two?");
    }

    #[test]
    fn a_token_of_another_pod_or_namespace_counts_for_nothing() {
        assert_eq!(found(&[("a", token("other", UID, "coder"))]), None);
        assert_eq!(found(&[("a", token("agents", "0-0", "coder"))]), None);
    }

    #[test]
    fn a_uid_that_is_a_path_leads_nowhere() {
        for uid in ["", "..", "../x", "a/b"] {
            let pod = Pod {
                uid: uid.into(),
                ..Pod::default()
            };
            assert_eq!(service_account(Path::new("/"), &pod), None, "{uid}");
        }
    }
}
