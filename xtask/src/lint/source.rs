//! Rules about the source that no compiler knows: which module may import which, where unsafe
//! code may stand, and how long a file may be.
//!
//! The layers are read from the table in `gateway/src/lib.rs`, so that what people read is what
//! is checked. A module may import from its own layer and from those above it in the table. Tests
//! are left out of all rules.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use xtask::cache;

const MAX_LINES: usize = 700;

/// What a pure module can't be: dependent on a run time, on files or on the clock.
const IMPURE: [&str; 5] = [
    "tokio::",
    "std::fs",
    "Instant::now",
    "SystemTime",
    "std::env",
];

pub(crate) fn check() -> Result<()> {
    let root = cache::root();
    let lib = root.join("gateway/src/lib.rs");
    let layers = Layers::parse(&fs::read_to_string(&lib)?)?;
    let mut faults = Vec::new();
    for krate in ["gateway", "gateway-ebpf", "xtask", "vm-tests/battery"] {
        let source = root.join(krate).join("src");
        for file in rust_files(&source)? {
            let inside = file.strip_prefix(&source)?;
            let text = fs::read_to_string(&file)?;
            let code = without_tests(&text);
            let shown = Path::new(krate).join("src").join(inside);
            let module = module_of(inside);
            let own = if krate == "gateway" {
                layers.check(&module, code)
            } else {
                Vec::new()
            };
            let may_be_unsafe = match krate {
                "gateway-ebpf" => true,
                "gateway" => module == "capture",
                // An attacker makes the system calls that no safe wrapper has.
                "vm-tests/battery" => module == "sys",
                _ => false,
            };
            let own = own
                .into_iter()
                .chain(unsafe_code(code).filter(|_| !may_be_unsafe));
            let own = own.chain(too_long(code));
            faults.extend(own.map(|fault| format!("{}: {fault}", shown.display())));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The table of layers: each module's rank, 0 at the bottom.
struct Layers {
    rank: HashMap<String, usize>,
    names: Vec<String>,
}

impl Layers {
    /// Reads rows like ``//! | edge | `capture`, `tls` |``.
    fn parse(lib: &str) -> Result<Self> {
        let mut layers = Self {
            rank: HashMap::new(),
            names: Vec::new(),
        };
        let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | "));
        for row in rows {
            let (name, modules) = row.split_once(" | ").context("a row has two cells")?;
            let modules: Vec<_> = modules.split('`').skip(1).step_by(2).collect();
            if modules.is_empty() {
                continue;
            }
            for module in modules {
                layers.rank.insert(module.to_owned(), layers.names.len());
            }
            let name = name.split(':').next().unwrap_or(name);
            layers.names.push(name.to_owned());
        }
        ensure!(
            layers.names.len() == 4,
            "gateway/src/lib.rs should have a table of four layers"
        );
        Ok(layers)
    }

    fn check(&self, module: &str, code: &str) -> Vec<String> {
        if matches!(module, "lib" | "main") {
            return Vec::new();
        }
        let Some(&rank) = self.rank.get(module) else {
            return vec![format!("`{module}` is in no layer of the table in lib.rs")];
        };
        let code = without_comments(code);
        let mut faults: Vec<_> = imports(&code)
            .filter(|import| self.rank.get(*import).is_some_and(|&other| other > rank))
            .map(|import| {
                let (own, other) = (&self.names[rank], &self.names[self.rank[import]]);
                format!("`{module}` ({own}) must not import `{import}` ({other})")
            })
            .collect();
        if rank == 0 {
            let impure = IMPURE.iter().filter(|name| code.contains(**name));
            faults.extend(impure.map(|name| format!("`{module}` is pure, and names `{name}`")));
        }
        faults.sort();
        faults.dedup();
        faults
    }
}

/// The first path segment of everything that `code` takes from its crate's root.
fn imports(code: &str) -> impl Iterator<Item = &str> {
    code.match_indices("crate::").flat_map(|(at, found)| {
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            Some(group) => group_heads(group),
            None => vec![head(rest)],
        }
    })
}

/// The heads of a `{a::b, c::{d, e}}` group, given from behind its opening brace.
fn group_heads(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut heads) = (0, 0, Vec::new());
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => {
                heads.push(head(group[start..at].trim_start()));
                break;
            }
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                heads.push(head(group[start..at].trim_start()));
                start = at + 1;
            }
            _ => {}
        }
    }
    heads
}

fn head(path: &str) -> &str {
    let end = path
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(path.len());
    &path[..end]
}

fn unsafe_code(code: &str) -> impl Iterator<Item = String> {
    let kinds = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
    let lines = code
        .lines()
        .enumerate()
        .map(|(number, line)| (number + 1, uncommented(line)));
    lines
        .filter(move |(_, line)| {
            kinds
                .iter()
                .any(|kind| line.trim_start_matches("pub ").contains(kind))
        })
        // A string isn't code.
        .filter(|(_, line)| !line.contains("\"unsafe"))
        .map(|(number, _)| {
            format!("line {number}: unsafe code belongs in `capture` (the battery's, in `sys`)")
        })
}

fn too_long(code: &str) -> Option<String> {
    let lines = code.lines().count();
    (lines > MAX_LINES).then(|| format!("{lines} lines without tests: split it at {MAX_LINES}"))
}

/// The module below the crate's root that a file belongs to.
fn module_of(inside: &Path) -> String {
    let first = inside
        .iter()
        .next()
        .map(Path::new)
        .and_then(Path::file_stem);
    first
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// A file's text up to its `#[cfg(test)] mod`.
fn without_tests(text: &str) -> &str {
    let end = text
        .match_indices("#[cfg(test)]\n")
        .map(|(at, found)| (at, at + found.len()));
    let tests = end.filter(|(_, end)| text[*end..].starts_with("mod "));
    tests
        .map(|(at, _)| at)
        .next()
        .map_or(text, |at| &text[..at])
}

fn without_comments(code: &str) -> String {
    code.lines().map(uncommented).collect::<Vec<_>>().join("\n")
}

fn uncommented(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

/// Every Rust file below a folder, except those that hold only tests.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let is_tests = path.file_stem().is_some_and(|stem| stem == "tests");
        if is_tests {
            continue;
        } else if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "//! | layer | modules |\n//! |---|---|\n//! | pure: no files | `sql`, `mask` |\n\
        //! | edge | `record` |\n//! | flow | `session` |\n//! | top | `cli` |\n";

    fn faults(module: &str, code: &str) -> Vec<String> {
        Layers::parse(TABLE).unwrap().check(module, code)
    }

    #[test]
    fn a_module_may_import_its_own_layer_and_the_ones_below() {
        assert!(faults("sql", "use crate::mask::Mask;").is_empty());
        assert!(faults("session", "use crate::{record, sql::{Effect, analyse}};").is_empty());
        assert!(faults("cli", "fn f() { crate::session::run() }").is_empty());
    }

    #[test]
    fn an_import_from_above_is_a_fault_however_it_is_written() {
        for code in [
            "use crate::record::Entry;",
            "use crate::{\n    mask,\n    record::{self, Entry},\n};",
            "use crate::{mask::{Mask, Cover}, record};",
            "fn f() { crate::record::run() }",
        ] {
            assert_eq!(
                faults("sql", code),
                ["`sql` (pure) must not import `record` (edge)"],
                "{code}"
            );
        }
    }

    #[test]
    fn comments_and_tests_are_not_imports() {
        assert!(faults("sql", "// crate::record\n").is_empty());
        let text = "fn f() {}\n#[cfg(test)]\nmod tests { use crate::record; }";
        assert!(faults("sql", without_tests(text)).is_empty());
    }

    #[test]
    fn a_module_outside_the_table_is_a_fault() {
        assert_eq!(faults("utils", "").len(), 1);
    }

    #[test]
    fn a_pure_module_has_no_clock() {
        assert_eq!(
            faults("mask", "Instant::now()"),
            ["`mask` is pure, and names `Instant::now`"]
        );
        assert!(faults("record", "Instant::now()").is_empty());
    }

    #[test]
    fn unsafe_code_is_found_and_its_name_in_words_is_not() {
        assert_eq!(unsafe_code("let x = unsafe { f() };").count(), 1);
        assert_eq!(unsafe_code("pub unsafe fn f() {}").count(), 1);
        assert_eq!(
            unsafe_code("// unsafe { }\nenum E { UnsafeIo }\n\"unsafe_io\"").count(),
            0
        );
    }
}
