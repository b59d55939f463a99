//! Which settings a statement changes.

use pg_raw_parse::{
    Node,
    list::NodeList,
    nodes::VariableSetStmt,
    raw::{DiscardMode, VariableSetKind},
};

use super::expr::constant_text;

/// All settings, or one that can't be told.
pub(super) const ANY: &str = "*";

/// The setting that `set_config(name, ..)` changes. The arguments can be given by name, in any
/// order.
pub(super) fn of_set_config(args: &NodeList) -> Box<str> {
    let by_name = args.iter().find_map(|a| match a {
        Node::NamedArgExpr(n) if n.name() == Some("setting_name") => Some(n.arg()),
        _ => None,
    });
    let name = match (by_name, args.first()) {
        (Some(name), _) => constant_text(name),
        (None, Some(Node::NamedArgExpr(_)) | None) => None,
        (None, Some(first)) => constant_text(first),
    };
    name.map_or(ANY.into(), |n| n.to_ascii_lowercase().into())
}

/// The settings that a SET or RESET changes. The grammar has already turned the special forms
/// into names: `SET TIME ZONE` is `timezone`, `SET NAMES` is `client_encoding`, `SET ROLE` is
/// `role`.
pub(super) fn of_set(s: &VariableSetStmt) -> Vec<Box<str>> {
    if s.kind == VariableSetKind::VAR_RESET_ALL {
        return vec![ANY.into()];
    }
    let name = s.name().unwrap_or(ANY).to_ascii_lowercase();
    match (s.kind, name.as_str()) {
        (VariableSetKind::VAR_SET_MULTI, "transaction") => of_modes(s.args(), "transaction_"),
        (VariableSetKind::VAR_SET_MULTI, "session characteristics") => {
            of_modes(s.args(), "default_transaction_")
        }
        // SET TRANSACTION SNAPSHOT imports another transaction's view; it changes no setting.
        (VariableSetKind::VAR_SET_MULTI, "transaction snapshot") => Vec::new(),
        (VariableSetKind::VAR_SET_MULTI, _) => vec![ANY.into()],
        _ => vec![name.into()],
    }
}

/// The settings behind `ISOLATION LEVEL ..`, `READ ONLY`, `DEFERRABLE`.
pub(super) fn of_modes(modes: &NodeList, prefix: &str) -> Vec<Box<str>> {
    modes
        .iter()
        .map(|mode| match mode {
            Node::DefElem(d) => {
                let name = d.defname().unwrap_or_default();
                let name = name.strip_prefix("transaction_").unwrap_or(name);
                format!("{prefix}{name}").into()
            }
            _ => ANY.into(),
        })
        .collect()
}

/// The settings that a DISCARD resets.
pub(super) fn of_discard(target: DiscardMode::Type) -> Vec<Box<str>> {
    match target {
        DiscardMode::DISCARD_PLANS | DiscardMode::DISCARD_SEQUENCES => Vec::new(),
        // Dropping the temporary tables changes no setting.
        DiscardMode::DISCARD_TEMP => Vec::new(),
        _ => vec![ANY.into()],
    }
}
