//! Reading a view's rule: the `pg_node_tree` text of `pg_rewrite.ev_action`.
//!
//! Hides the format of `nodes/outfuncs.c`: `{NAME :label value ...}`, `(...)` lists, `<>` for
//! nothing, tokens with backslash escapes (`pg_strtok` in `nodes/read.c`). Takes out only what the
//! catalog needs and passes over every node that it doesn't know, since their names and fields
//! differ from version to version. Never panics; anything that isn't well-formed is an error, and
//! the view is then opaque.
//!
//! A label's value is taken without looking at it: a column may well be called `:resorigtbl`.

use std::str::FromStr;

use super::{AttNum, Oid};

/// What a view's rule says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    /// The output columns of the top-level query, junk left out.
    pub(super) targets: Vec<Target>,
    /// Every relation in any range table of the rule, in order of appearance.
    pub(super) relations: Vec<Oid>,
    /// Every function that is called, by name or as an operator.
    pub(super) functions: Vec<Oid>,
    /// Whether a whole row is used anywhere: `pg_depend` has no columns for that.
    pub(super) whole_row: bool,
}

/// One output column: the server's own word (`markTargetListOrigins`) on where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its position, which is the view's attnum.
    pub(super) resno: AttNum,
    /// The relation that it comes from unchanged, or 0.
    pub(super) origin: Oid,
    /// The column of that relation, 0 for a whole row or nothing.
    pub(super) attnum: AttNum,
}

/// The text isn't a rule as we know them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotUnderstood;

/// Deeper than any view that people write; well inside the smallest stack that we run on.
const MAX_DEPTH: u32 = 400;

/// Reads one rule.
pub(super) fn parse(text: &str) -> Result<Rule, NotUnderstood> {
    let mut reader = Reader {
        rest: text.as_bytes(),
        rule: Rule::default(),
        depth: 0,
        queries: 0,
    };
    reader.list(Place::Actions)?;
    if reader.token().is_some() || reader.queries != 1 || reader.rule.targets.is_empty() {
        return Err(NotUnderstood);
    }
    Ok(reader.rule)
}

/// Where in the tree a value stands, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The list of the rule's actions.
    Actions,
    /// The target list of the action itself.
    Targets,
    /// Anywhere else.
    Elsewhere,
}

struct Reader<'a> {
    rest: &'a [u8],
    rule: Rule,
    depth: u32,
    queries: u32,
}

/// The fields of a node that a [`Target`] is made of.
#[derive(Default)]
struct TargetFields {
    resno: Option<AttNum>,
    origin: Option<Oid>,
    attnum: Option<AttNum>,
    junk: Option<bool>,
}

impl<'a> Reader<'a> {
    /// The next token, its escapes left in: an escaped `<>` or brace must not look like one.
    fn token(&mut self) -> Option<&'a [u8]> {
        let start = self.rest.iter().position(|byte| !is_space(*byte))?;
        let text = &self.rest[start..];
        let mut end = 0;
        if is_bracket(text[0]) {
            end = 1;
        } else {
            while end < text.len() && !is_space(text[end]) && !is_bracket(text[end]) {
                end += if text[end] == b'\\' { 2 } else { 1 };
            }
            end = end.min(text.len());
        }
        self.rest = &text[end..];
        Some(&text[..end])
    }

    fn peek(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest;
        let token = self.token();
        self.rest = rest;
        token
    }

    fn enter(&mut self) -> Result<(), NotUnderstood> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            Err(NotUnderstood)
        } else {
            Ok(())
        }
    }

    /// `( value* )`.
    fn list(&mut self, place: Place) -> Result<(), NotUnderstood> {
        if self.token() != Some(b"(") {
            return Err(NotUnderstood);
        }
        self.list_body(place)
    }

    fn list_body(&mut self, place: Place) -> Result<(), NotUnderstood> {
        self.enter()?;
        loop {
            match self.token().ok_or(NotUnderstood)? {
                b")" => break,
                b"(" => self.list_body(Place::Elsewhere)?,
                b"{" => self.node(place)?,
                b"}" => return Err(NotUnderstood),
                _ if place == Place::Elsewhere => {}
                _ => return Err(NotUnderstood),
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// `NAME (:label value)* }`, after its brace.
    fn node(&mut self, place: Place) -> Result<(), NotUnderstood> {
        self.enter()?;
        let name = self
            .token()
            .filter(|name| !is_bracket(name[0]))
            .ok_or(NotUnderstood)?;
        match place {
            Place::Actions if name == b"QUERY" => self.queries += 1,
            Place::Targets if name == b"TARGETENTRY" => {}
            Place::Elsewhere => {}
            _ => return Err(NotUnderstood),
        }
        let mut target = TargetFields::default();
        loop {
            match self.token().ok_or(NotUnderstood)? {
                b"}" => break,
                label if label[0] == b':' => self.field(place, label, &mut target)?,
                _ => return Err(NotUnderstood),
            }
        }
        if place == Place::Targets {
            self.target(&target)?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// The value of a field, and any tokens up to the next label (`:constvalue 4 [ 1 0 0 0 ]`).
    fn field(
        &mut self,
        place: Place,
        label: &[u8],
        target: &mut TargetFields,
    ) -> Result<(), NotUnderstood> {
        let inner = match (place, label) {
            (Place::Actions, b":targetList") => Place::Targets,
            _ => Place::Elsewhere,
        };
        match self.token().ok_or(NotUnderstood)? {
            b"{" => self.node(Place::Elsewhere)?,
            b"(" => self.list_body(inner)?,
            b"}" | b")" => return Err(NotUnderstood),
            value => self.scalar(place, label, value, target)?,
        }
        while let Some(more) = self.peek() {
            if more == b"}" || more[0] == b':' {
                break;
            }
            if is_bracket(more[0]) {
                return Err(NotUnderstood);
            }
            self.token();
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        place: Place,
        label: &[u8],
        value: &[u8],
        target: &mut TargetFields,
    ) -> Result<(), NotUnderstood> {
        match label {
            b":relid" => push_oid(&mut self.rule.relations, value)?,
            b":funcid" | b":opfuncid" | b":aggfnoid" | b":winfnoid" => {
                push_oid(&mut self.rule.functions, value)?
            }
            b":varattno" => self.rule.whole_row |= number::<AttNum>(value)? == 0,
            _ if place != Place::Targets => {}
            b":resno" => target.resno = Some(number(value)?),
            b":resorigtbl" => target.origin = Some(number(value)?),
            b":resorigcol" => target.attnum = Some(number(value)?),
            b":resjunk" => target.junk = Some(boolean(value)?),
            _ => {}
        }
        Ok(())
    }

    fn target(&mut self, fields: &TargetFields) -> Result<(), NotUnderstood> {
        match fields {
            TargetFields {
                junk: Some(true), ..
            } => Ok(()),
            TargetFields {
                resno: Some(resno),
                origin: Some(origin),
                attnum: Some(attnum),
                junk: Some(false),
            } => {
                self.rule.targets.push(Target {
                    resno: *resno,
                    origin: *origin,
                    attnum: *attnum,
                });
                Ok(())
            }
            _ => Err(NotUnderstood),
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\t')
}

fn is_bracket(byte: u8) -> bool {
    matches!(byte, b'(' | b')' | b'{' | b'}')
}

fn number<T: FromStr>(value: &[u8]) -> Result<T, NotUnderstood> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(NotUnderstood)
}

fn boolean(value: &[u8]) -> Result<bool, NotUnderstood> {
    match value {
        b"true" => Ok(true),
        b"false" => Ok(false),
        _ => Err(NotUnderstood),
    }
}

fn push_oid(oids: &mut Vec<Oid>, value: &[u8]) -> Result<(), NotUnderstood> {
    let oid = number(value)?;
    if oid != 0 && !oids.contains(&oid) {
        oids.push(oid);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: &str = r#"({QUERY :commandType 1 :rtable ({RANGETBLENTRY :alias <> :eref {ALIAS :aliasname c :colnames ("id" "x\ y")} :relid 16388 :selectedCols (b 8 9)}) :targetList ({TARGETENTRY :expr {VAR :varno 3 :varattno 2} :resno 1 :resname :resorigtbl :resorigtbl 16388 :resorigcol 2 :resjunk false} {TARGETENTRY :expr {FUNCEXPR :funcid 871 :args ({CONST :constvalue 4 [ 1 0 -1 0 ]})} :resno 2 :resname \<> :resorigtbl 0 :resorigcol 0 :resjunk false} {TARGETENTRY :expr <> :resno 3 :resname j :resorigtbl 16388 :resorigcol 1 :resjunk true}) :stmt_len 9})"#;

    fn target(resno: AttNum, origin: Oid, attnum: AttNum) -> Target {
        Target {
            resno,
            origin,
            attnum,
        }
    }

    #[test]
    fn origins_relations_and_functions_are_taken_out() {
        let rule = parse(RULE).expect("well-formed");
        assert_eq!(rule.targets, [target(1, 16388, 2), target(2, 0, 0)]);
        assert_eq!(
            (rule.relations, rule.functions, rule.whole_row),
            (vec![16388], vec![871], false)
        );
    }

    #[test]
    fn target_lists_of_sub_queries_are_not_the_views_own() {
        let nested = RULE.replace(":rtable (", ":rtable ({RANGETBLENTRY :relid 0 :subquery {QUERY :targetList ({TARGETENTRY :expr {VAR :varattno 0} :resno 9 :resorigtbl 7 :resorigcol 7 :resjunk false})}} ");
        let rule = parse(&nested).expect("well-formed");
        assert_eq!(rule.targets.len(), 2);
        assert!(rule.whole_row);
    }

    #[test]
    fn what_is_not_a_single_query_with_outputs_is_not_understood() {
        for text in [
            "",
            "<>",
            "()",
            "({QUERY :targetList <>})",
            "({NOTIFY :x 1})",
            "({QUERY :commandType 1",
        ] {
            assert_eq!(parse(text), Err(NotUnderstood), "{text}");
        }
        let twice = format!(
            "({} {})",
            &RULE[1..RULE.len() - 1],
            &RULE[1..RULE.len() - 1]
        );
        assert_eq!(parse(&twice), Err(NotUnderstood));
        assert_eq!(parse(&format!("{RULE} x")), Err(NotUnderstood));
        assert_eq!(
            parse(&RULE.replace(":resorigtbl 16388", ":resorigtbl 1x")),
            Err(NotUnderstood)
        );
        assert_eq!(
            parse(&RULE.replace(" :resorigcol 2", "")),
            Err(NotUnderstood)
        );
    }

    #[test]
    fn nesting_beyond_the_limit_is_not_understood() {
        let deep = |n: usize| {
            RULE.replace(
                ":expr <>",
                &format!(":expr {}x{}", "{A :b ".repeat(n), "}".repeat(n)),
            )
        };
        assert!(parse(&deep(100)).is_ok());
        assert_eq!(parse(&deep(100_000)), Err(NotUnderstood));
    }

    proptest! {
        #[test]
        fn any_text_and_any_damage_is_survived(text in r#"[(){}<>:a-z0-9 \\"]{0,200}"#, cut in 0..RULE.len()) {
            let _ = parse(&text);
            prop_assert_eq!(parse(&RULE[..cut]), Err(NotUnderstood));
            let _ = parse(&format!("{}{text}{}", &RULE[..cut], &RULE[cut..]));
        }
    }
}
