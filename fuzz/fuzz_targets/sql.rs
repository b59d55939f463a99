//! Analysing hostile text: never a panic, every statement a slice of the text that does something.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::sql::{Effect, analyse};

fuzz_target!(|text: &str| {
    let analysis = analyse(text);
    let mut end = 0;
    for statement in &analysis.statements {
        assert!(
            text.get(statement.span.clone()).is_some(),
            "{:?}",
            statement.span
        );
        assert!(statement.span.start >= end, "statements overlap");
        end = statement.span.end;
        assert!(
            !statement.touches.is_empty(),
            "a statement that does nothing would be allowed"
        );
    }
    if analysis.failure.is_some() {
        let unknown =
            |s: &weir::sql::Statement| s.touches.iter().any(|t| t.effect == Effect::Unknown);
        assert!(
            analysis.statements.iter().all(unknown),
            "a failure must not be judged by its parts"
        );
    }
});
