//! Loading a snapshot of the upstream catalog over Weir's own log-in.
//!
//! All queries run in one read-only transaction of repeatable read, so that the snapshot is of one
//! moment: a view can't be known by its old rule and its new columns.

use thiserror::Error;

use super::Connection;
use crate::catalog::{Catalog, QUERIES, RowError, SEARCH_PATH, SnapshotRows};

/// Why no snapshot was loaded. The previous one, if any, is as old as it was.
#[derive(Debug, Error)]
pub enum Error {
    /// A query failed, or the connection did.
    #[error("cannot read the catalog")]
    Query(#[source] super::Error),
    /// The server answered with something else than the query asks for.
    #[error("cannot understand the catalog")]
    Row(#[source] RowError),
}

/// Nothing that a role or database setting may have put before `pg_catalog` must answer instead.
const BEGIN: &str = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                     SET LOCAL search_path = pg_catalog";

/// Loads a snapshot of the database that the connection is on.
///
/// Not cancel-safe: a connection on which this was dropped halfway can't be used again. After an
/// error it should be closed too, for it is in a failed transaction.
///
/// # Errors
/// [`Error`], with nothing of a snapshot kept.
pub async fn load(conn: &mut Connection) -> Result<Catalog, Error> {
    let mut rows = SnapshotRows::default();
    let path = conn.query(SEARCH_PATH.sql).await.map_err(Error::Query)?;
    rows.add(SEARCH_PATH.facts, path).map_err(Error::Row)?;
    conn.query(BEGIN).await.map_err(Error::Query)?;
    for query in QUERIES {
        let answer = conn.query(query.sql).await.map_err(Error::Query)?;
        rows.add(query.facts, answer).map_err(Error::Row)?;
    }
    conn.query("COMMIT").await.map_err(Error::Query)?;
    Ok(Catalog::build(rows))
}
