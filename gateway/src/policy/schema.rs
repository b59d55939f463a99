//! The policy file's format as a JSON Schema, for editors.
//!
//! The types here are documentation that a compiler checks; reading is done elsewhere, and a test
//! holds the two against each other, key by key.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};

use crate::sql::Effect;

/// The JSON Schema (draft 2020-12) of a policy file.
pub fn json_schema() -> serde_json::Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    generator.into_root_schema_for::<PolicyFile>().to_value()
}

/// The types stand for their shape alone.
macro_rules! shapes {
    ($($(#[$meta:meta])* struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(JsonSchema)]
            #[schemars(deny_unknown_fields)]
            #[expect(dead_code, reason = "only the shape is used")]
            struct $name { $($(#[$field_meta])* $field: $type,)* }
        )*
    };
}

shapes! {
    /// A file of Weir policy.
    struct PolicyFile {
        /// The version of the format: 1.
        version: Version,
        /// "observe" records what would be denied, and denies nothing. The same in all files.
        mode: Option<Mode>,
        /// What agents may do. What no rule allows is denied.
        rule: Option<Vec<Rule>>,
        /// Cases for `weir policy test`.
        test: Option<Vec<Test>>,
    }

    /// Allows or denies some effects on some objects to some agents.
    struct Rule {
        /// Unique in the whole policy; named in denials and in the record.
        name: String,
        /// Exact names of agents. Without agents and groups: every agent.
        agents: Option<Names>,
        /// Groups of agents.
        groups: Option<Names>,
        /// Exact names of datastores. Without it: every datastore.
        datastore: Option<OneOrMore>,
        /// What is done.
        effects: Effects,
        /// Patterns of the form schema.name, in which * stands for any characters.
        objects: Option<Objects>,
        /// A condition on updates and deletes.
        when: Option<When>,
        /// Any rule that denies wins.
        decision: Decision,
        /// Bounds on one statement's result; the strictest of all matching rules holds.
        limits: Option<Limits>,
        /// What the agent is told when the rule denies.
        message: Option<String>,
        /// "observe" takes the rule's decision and limits out of force, but not its masks.
        mode: Option<Mode>,
        /// Columns that are shown only in part, or not at all.
        mask: Option<Vec<Mask>>,
    }

    /// A condition on updates and deletes.
    struct When {
        /// Whether the statement has a WHERE.
        has_where: bool,
    }

    /// Bounds on one statement's result.
    struct Limits {
        /// Rows.
        #[schemars(range(min = 1))]
        max_rows: Option<u64>,
        /// Bytes: a number, or a size such as "2MiB".
        max_bytes: Option<Size>,
    }

    /// A mask on columns of the rule's objects.
    struct Mask {
        /// Exact names of columns, or "*" for all.
        columns: Names,
        /// The mask function.
        with: Function,
        /// For "partial": characters kept at the start.
        keep_first: Option<u16>,
        /// For "partial": characters kept at the end.
        keep_last: Option<u16>,
        /// For "constant": what is shown.
        value: Option<String>,
        /// For "hmac": where the key comes from.
        key: Option<Key>,
        /// Masked columns can't be used in WHERE, JOIN, ORDER BY and so on.
        predicates: Option<Predicates>,
    }

    /// Exactly one of the three.
    struct Key {
        /// A file that only its owner can read.
        file: Option<String>,
        /// An environment variable of the daemon.
        env: Option<String>,
        /// A systemd credential of the daemon's unit.
        credential: Option<String>,
    }

    /// A statement and what must become of it.
    struct Test {
        /// The agent that asks.
        agent: String,
        /// The groups that it is in.
        groups: Option<Names>,
        /// The datastore. Without it: the only one that rules name.
        datastore: Option<String>,
        /// The statement.
        sql: String,
        /// What must become of it.
        expect: Expect,
    }

    /// What must become of a statement.
    struct Expect {
        /// Whether it runs.
        decision: Decision,
        /// A rule that must have decided.
        rule: Option<String>,
        /// The masked columns of the relations that it reads.
        masked: Option<Vec<String>>,
    }
}

/// Words and lists whose values are closed or have a form.
macro_rules! values {
    ($($name:ident = $schema:expr;)*) => {
        $(
            struct $name;
            impl JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    $schema
                }
            }
        )*
    };
}

values! {
    Version = json_schema!({ "const": 1 });
    Mode = json_schema!({ "enum": ["enforce", "observe"] });
    Decision = json_schema!({ "enum": ["allow", "deny"] });
    Predicates = json_schema!({ "enum": ["deny"] });
    Function = json_schema!({ "enum": super::rule::FUNCTIONS });
    Effects = json_schema!({
        "type": "array", "minItems": 1,
        "items": { "enum": Effect::ALL.iter().map(|effect| effect.as_str()).collect::<Vec<_>>() },
    });
    Names = json_schema!({
        "type": "array", "minItems": 1, "items": { "type": "string", "minLength": 1 },
    });
    Objects = json_schema!({
        "type": "array", "minItems": 1, "items": { "type": "string", "pattern": "^[^.]+\\..+$" },
    });
    OneOrMore = json_schema!({
        "type": ["string", "array"], "minLength": 1, "minItems": 1,
        "items": { "type": "string", "minLength": 1 },
    });
    Size = json_schema!({
        "type": ["integer", "string"], "minimum": 1, "pattern": "^[0-9]+ *([kKmMgG][iI]?)?[bB]?$",
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::policy::{parse, rule};

    #[test]
    fn the_schema_has_exactly_the_keys_that_reading_knows() {
        let schema = json_schema();
        let keys = |table: &serde_json::Value| -> BTreeSet<String> {
            assert_eq!(table["additionalProperties"], false, "{table}");
            table["properties"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect()
        };
        let known =
            |keys: &[&str]| -> BTreeSet<String> { keys.iter().map(ToString::to_string).collect() };
        assert_eq!(keys(&schema), known(parse::FILE_KEYS));
        for (table, expected) in [
            ("Rule", rule::RULE_KEYS),
            ("When", rule::WHEN_KEYS),
            ("Limits", rule::LIMITS_KEYS),
            ("Mask", rule::MASK_KEYS),
            ("Key", rule::KEY_KEYS),
            ("Test", parse::TEST_KEYS),
            ("Expect", parse::EXPECT_KEYS),
        ] {
            assert_eq!(keys(&schema["$defs"][table]), known(expected), "{table}");
        }
    }

    #[test]
    fn what_must_be_there_is_required() {
        let schema = json_schema();
        let required = |table: &serde_json::Value| table["required"].clone();
        assert_eq!(required(&schema), serde_json::json!(["version"]));
        assert_eq!(
            required(&schema["$defs"]["Rule"]),
            serde_json::json!(["name", "effects", "decision"])
        );
    }
}
