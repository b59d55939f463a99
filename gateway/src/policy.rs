//! The policy: rules, masks and limits, and how they decide.
