//! Policy files: a policy, or errors with places.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::policy::{Source, parse};

fuzz_target!(|text: &str| {
    let source = Source {
        name: "fuzz.toml".to_owned(),
        text: text.to_owned(),
    };
    if let Err(diagnostics) = parse(&[source]) {
        assert!(!diagnostics.is_empty(), "an error that tells nothing");
        for diagnostic in diagnostics {
            assert!(
                diagnostic.to_string().starts_with("fuzz.toml:"),
                "{diagnostic}"
            );
        }
    }
});
