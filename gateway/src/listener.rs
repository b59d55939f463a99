//! Accepting connections on the agents' side.
