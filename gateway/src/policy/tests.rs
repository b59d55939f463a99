//! Policies read and asked: what their tests share.

mod deciding;
mod file;
mod properties;

use super::*;

fn source(text: &str) -> Source {
    Source {
        name: "p.toml".into(),
        text: text.into(),
    }
}

fn policy(text: &str) -> Policy {
    match parse(&[source(&format!("version = 1\n{text}"))]) {
        Ok(policy) => policy,
        Err(diagnostics) => panic!("{diagnostics:?}"),
    }
}

/// The diagnostics of a file whose second line is the first of `text`.
fn wrong(text: &str) -> Vec<String> {
    parse(&[source(&format!("version = 1\n{text}"))])
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn touch(effect: Effect, object: &str) -> ResolvedTouch {
    ResolvedTouch {
        effect,
        object: object
            .split_once('.')
            .map(|(schema, name)| (schema.into(), name.into())),
        has_where: None,
        need: Need::Rule,
    }
}

fn coder() -> Subject<'static> {
    Subject {
        agent: "coder",
        groups: &[],
        datastore: "appdb",
    }
}

fn decide(policy: &Policy, touches: &[ResolvedTouch]) -> Decision {
    policy.decide(&coder(), touches)
}

fn allowed(decision: Decision) -> Allow {
    match decision {
        Decision::Allow(allow) => allow,
        Decision::Deny(deny) => panic!("{deny:?}"),
    }
}

fn denied(decision: Decision) -> Deny {
    match decision {
        Decision::Deny(deny) => deny,
        Decision::Allow(allow) => panic!("{allow:?}"),
    }
}

const READ: &str = r#"
[[rule]]
name = "read"
effects = ["read"]
objects = ["public.*"]
decision = "allow"
"#;
