//! What a statement does: PostgreSQL's own grammar is the authority.
