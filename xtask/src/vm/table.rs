//! What a battery says, and the table of vectors by kernels.

use std::collections::BTreeSet;

use super::Kernel;

/// What the lines for us begin with.
const MARK: &str = "@battery\t";

/// One line of a battery's.
pub(super) enum Line {
    Begin { release: String, cases: usize },
    Case(Case),
    Note(String),
    End,
}

/// How one case ended.
pub(super) struct Case {
    name: String,
    ok: bool,
    expected: String,
    seen: String,
    milliseconds: u64,
    detail: String,
}

impl Line {
    /// Reads a line, if it is one of ours. A console can have other text in front.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.trim_end().split_once(MARK)?;
        let fields: Vec<_> = fields.split('\t').collect();
        match *fields {
            ["begin", release, cases] => Some(Self::Begin {
                release: release.to_owned(),
                cases: cases.parse().ok()?,
            }),
            ["case", name, verdict, expected, seen, time, ref rest @ ..] => {
                Some(Self::Case(Case {
                    name: name.to_owned(),
                    ok: verdict == "ok",
                    expected: expected.to_owned(),
                    seen: seen.to_owned(),
                    milliseconds: time.parse().ok()?,
                    detail: rest.join(" "),
                }))
            }
            ["note", text] => Some(Self::Note(text.to_owned())),
            ["end", ..] => Some(Self::End),
            _ => None,
        }
    }
}

/// A battery's run on one kernel.
pub(super) struct Run {
    kernel: Kernel,
    pub(super) expected: Option<usize>,
    pub(super) cases: Vec<Case>,
    pub(super) ended: bool,
}

impl Run {
    pub(super) fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            expected: None,
            cases: Vec::new(),
            ended: false,
        }
    }

    /// Cases that aren't as they should be; those that never came count.
    pub(super) fn failed(&self) -> usize {
        let good = self.cases.iter().filter(|case| case.ok).count();
        self.expected.unwrap_or(1).max(self.cases.len()) - good
    }

    /// Prints the case that came last.
    pub(super) fn show_last(&self) {
        let Some(case) = self.cases.last() else {
            return;
        };
        let mark = if case.ok { "ok    " } else { "FAILED" };
        let (count, total) = (self.cases.len(), self.expected.unwrap_or(0));
        let seconds = case.milliseconds as f64 / 1000.0;
        println!(
            "  {}: {count:>3}/{total} {mark} {:<34} {:<9} {seconds:>5.1} s  {}",
            self.kernel, case.name, case.seen, case.detail
        );
    }
}

/// Prints all runs side by side.
pub(super) fn print(runs: &[Run]) {
    let mut names = Vec::new();
    let mut known = BTreeSet::new();
    for case in runs.iter().flat_map(|run| &run.cases) {
        if known.insert(&case.name) {
            names.push(&case.name);
        }
    }
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    print!("\n{:<width$}", "attack and state");
    runs.iter()
        .for_each(|run| print!("  {:<24}", run.kernel.to_string()));
    println!();
    for name in names {
        print!("{name:<width$}");
        for run in runs {
            let case = run.cases.iter().find(|case| case.name == *name);
            print!("  {:<24}", case.map_or_else(|| "-".to_owned(), Case::cell));
        }
        println!();
    }
    for run in runs {
        let seconds = run.cases.iter().map(|case| case.milliseconds).sum::<u64>() as f64 / 1000.0;
        let (good, all) = (
            run.cases.iter().filter(|case| case.ok).count(),
            run.cases.len(),
        );
        println!(
            "{}: {good} of {all} as they should be, {seconds:.0} s",
            run.kernel
        );
    }
}

impl Case {
    fn cell(&self) -> String {
        if !self.ok {
            return format!("FAILED: {} for {}", self.seen, self.expected);
        }
        // A gap is a bypass that the README names.
        if self.expected.starts_with("gap") {
            self.expected.clone()
        } else {
            self.seen.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lines: &[&str]) -> Run {
        let mut run = Run::new(Kernel::Host);
        for line in lines {
            match Line::parse(line) {
                Some(Line::Begin { cases, .. }) => run.expected = Some(cases),
                Some(Line::Case(case)) => run.cases.push(case),
                _ => {}
            }
        }
        run
    }

    #[test]
    fn cases_that_failed_or_never_came_count_as_failed() {
        let good = "[ 1.0] @battery\tcase\ta\tok\tblocked\tblocked\t5\tno\r\n";
        let bad = "@battery\tcase\tb\tFAILED\tblocked\tBYPASS\t5\tcanary";
        assert_eq!(run(&["@battery\tbegin\t6.1\t1", good]).failed(), 0);
        assert_eq!(run(&["@battery\tbegin\t6.1\t2", good]).failed(), 1);
        assert_eq!(run(&["@battery\tbegin\t6.1\t2", good, bad]).failed(), 1);
        assert_eq!(run(&[]).failed(), 1);
    }

    #[test]
    fn other_lines_are_nobodys() {
        assert!(Line::parse("[    0.000000] Linux version 6.1").is_none());
        assert!(Line::parse("@battery\tcase\ta").is_none());
    }
}
