//! An error and what caused it, in a line.

use std::error::Error;

/// An error's message with those of its causes, as `what: why: why that`.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // A wrapped error (TLS in I/O, say) tells what the one around it has told.
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Told(&'static str, Option<Box<Told>>);

    impl std::fmt::Display for Told {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Told {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn each_cause_is_told_once() {
        let cause = Told("no route", None);
        let same = Told("no route", Some(Box::new(cause)));
        let outer = Told("can't connect", Some(Box::new(same)));
        assert_eq!(chain(&outer), "can't connect: no route");
    }
}
