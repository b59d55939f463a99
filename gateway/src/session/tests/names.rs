//! Names of statements, portals and tables, whose meaning changes while the session goes on.

use super::stage::{
    CARDS, Stage, begun, bind, complete, description, error, execute, f, on_stage, parse, query,
    ready, row, sync,
};

/// Runs a query that has no rows.
async fn runs(s: &mut Stage, text: &str, tag: &str, status: u8) {
    s.passes(&query(text), &[complete(tag), ready(status)].concat())
        .await;
}

/// Prepares a statement that reads nothing masked.
async fn prepares(s: &mut Stage, name: &str, text: &str) {
    let said = [parse(name, text), sync()].concat();
    s.passes(&said, &[f(b'1', b""), ready(b'I')].concat()).await;
}

async fn is_denied(s: &mut Stage, text: &str, words: &str) {
    s.client_says(&query(text)).await;
    s.client_is_refused("42501", words).await;
    s.client_gets(&ready(b'I')).await;
}

#[tokio::test]
async fn a_named_statement_isnt_executed_on_another_path_than_it_was_judged_for() {
    on_stage(|mut s| async move {
        prepares(&mut s, "s", "SELECT id FROM plans").await;
        runs(&mut s, "EXECUTE s", "SELECT 0", b'I').await;
        let both = "SET search_path = vault; EXECUTE s";
        is_denied(&mut s, both, "search path").await;
        runs(&mut s, "SET search_path = vault", "SET", b'I').await;
        is_denied(&mut s, "EXECUTE s", "search path").await;
    })
    .await;
}

#[tokio::test]
async fn a_path_isnt_changed_by_a_name_unseen() {
    let changing = "SELECT set_config('search_path', 'vault', false)";
    on_stage(|mut s| async move {
        prepares(&mut s, "s", changing).await;
        // What else it could run would be on that path.
        is_denied(&mut s, "EXECUTE s", "search path").await;
        runs(&mut s, "SELECT id FROM plans", "SELECT 0", b'I').await;
    })
    .await;
    on_stage(|mut s| async move {
        begun(&mut s).await;
        let opening = [parse("", changing), bind("p", ""), sync()].concat();
        s.passes(
            &opening,
            &[f(b'1', b""), f(b'2', b""), ready(b'T')].concat(),
        )
        .await;
        runs(&mut s, "FETCH p", "FETCH 1", b'T').await;
        runs(&mut s, "COMMIT", "COMMIT", b'I').await;
        is_denied(&mut s, "SELECT id FROM plans", "vault.plans").await;
    })
    .await;
}

/// What a statement on `cards` is described as: of its parameters, and of its columns.
fn described(table: u32) -> Vec<u8> {
    [f(b't', &[0, 0]), description(&[("ssn", table, 1)])].concat()
}

fn describe(name: &str) -> Vec<u8> {
    f(b'D', format!("S{name}\0").as_bytes())
}

/// Prepares `x` to read what `cards` means in `tenant`. Returns what the server is asked for that.
async fn prepares_cards(s: &mut Stage, status: u8) -> Vec<u8> {
    let parsed = parse("x", "SELECT ssn FROM cards");
    s.client_says(&[parsed.clone(), sync()].concat()).await;
    let asked = [describe("x"), f(b'H', b"")].concat();
    s.server_gets(&[parsed, asked.clone()].concat()).await;
    s.server_says(&[f(b'1', b""), described(CARDS[1])].concat())
        .await;
    s.server_gets(&sync()).await;
    s.server_says(&ready(status)).await;
    s.client_gets(&[f(b'1', b""), ready(status)].concat()).await;
    asked
}

/// [`prepares_cards`] of one schema, behind which the path names another. Returns the same.
async fn prepares_cards_of_a_path_that_changes(s: &mut Stage) -> Vec<u8> {
    runs(s, "SET search_path = tenant", "SET", b'I').await;
    let asked = prepares_cards(s, b'I').await;
    runs(s, "SET search_path = public", "SET", b'I').await;
    asked
}

#[tokio::test]
async fn a_statement_is_described_anew_once_its_names_may_mean_other_tables() {
    on_stage(|mut s| async move {
        let asked = prepares_cards_of_a_path_that_changes(&mut s).await;

        let run = [bind("", "x"), execute(""), sync()].concat();
        s.client_says(&run).await;
        s.server_gets(&asked).await;
        s.server_says(&described(CARDS[0])).await;
        s.server_gets(&run).await;
        let rows = |ssn| {
            let all = [f(b'2', b""), row(&[ssn]), complete("SELECT 1"), ready(b'I')];
            all.concat()
        };
        s.server_says(&rows("123-45-6789")).await;
        s.client_gets(&rows("[redacted]")).await;

        // Nothing has changed since.
        s.client_says(&run).await;
        s.server_gets(&run).await;
        s.server_says(&rows("123-45-6789")).await;
        s.client_gets(&rows("[redacted]")).await;
    })
    .await;
}

#[tokio::test]
async fn a_path_that_a_transaction_may_take_back_is_never_sure() {
    on_stage(|mut s| async move {
        begun(&mut s).await;
        runs(&mut s, "SET LOCAL search_path = tenant", "SET", b'T').await;
        let asked = prepares_cards(&mut s, b'T').await;

        let run = [bind("", "x"), execute(""), sync()].concat();
        s.client_says(&[query("ROLLBACK"), run.clone()].concat())
            .await;
        s.server_gets(&[query("ROLLBACK"), asked].concat()).await;
        s.server_says(&[complete("ROLLBACK"), ready(b'I'), described(CARDS[0])].concat())
            .await;
        s.server_gets(&run).await;
    })
    .await;
}

#[tokio::test]
async fn a_description_that_failed_is_asked_for_again() {
    on_stage(|mut s| async move {
        let asked = prepares_cards_of_a_path_that_changes(&mut s).await;

        let run = [bind("", "x"), execute(""), sync()].concat();
        s.client_says(&run).await;
        s.server_gets(&asked).await;
        s.server_says(&error("25P02", "aborted")).await;
        s.server_gets(&sync()).await;
        s.server_says(&ready(b'I')).await;
        s.client_is_refused("25P02", "aborted").await;
        s.client_gets(&ready(b'I')).await;

        s.client_says(&run).await;
        s.server_gets(&asked).await;
    })
    .await;
}

#[tokio::test]
async fn a_commit_waits_for_a_result_that_may_exceed_its_limit() {
    on_stage(|mut s| async move {
        begun(&mut s).await;
        let select = query("SELECT id FROM limited");
        s.client_says(&[select.clone(), query("COMMIT")].concat())
            .await;
        s.server_gets(&select).await;
        s.nothing_reaches_the_server().await;
        let columns = description(&[("id", 20003, 1)]);
        let rows = [row(&["1"]), row(&["2"])].concat();
        s.server_says(&[columns.clone(), rows.clone(), row(&["3"])].concat())
            .await;
        s.server_says(&[complete("SELECT 3"), ready(b'T')].concat())
            .await;
        s.client_gets(&[columns, rows].concat()).await;
        s.client_is_refused("54000", "limit").await;
        // The transaction fails before anything can be committed.
        s.transaction_fails().await;
        s.server_gets(&query("COMMIT")).await;
        let answer = [complete("ROLLBACK"), ready(b'I')].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
    })
    .await;
}

#[tokio::test]
async fn a_commit_in_a_pipeline_waits_too() {
    on_stage(|mut s| async move {
        begun(&mut s).await;
        let run = |text| [parse("", text), bind("", ""), execute("")].concat();
        let select = run("SELECT id FROM limited");
        let commit = [parse("", "COMMIT"), bind("", "")].concat();
        let all = [select.clone(), run("COMMIT"), sync()];
        s.client_says(&all.concat()).await;
        let flush = f(b'H', b"");
        s.server_gets(&[select, commit, flush].concat()).await;
        let begins = [f(b'1', b""), f(b'2', b"")].concat();
        let rows = [row(&["1"]), row(&["2"])].concat();
        s.server_says(&[begins.clone(), rows.clone(), row(&["3"])].concat())
            .await;
        s.server_says(&[complete("SELECT 3"), begins.clone()].concat())
            .await;
        s.client_gets(&[begins, rows].concat()).await;
        s.client_is_refused("54000", "limit").await;
        // The client takes it for skipped, and so it is.
        s.server_gets(&sync()).await;
        s.server_says(&ready(b'T')).await;
        s.transaction_fails().await;
    })
    .await;
}

#[tokio::test]
async fn names_without_end_are_refused() {
    on_stage(|mut s| async move {
        for hundred in 0..100 {
            let names = (0..100).map(|n| parse(&format!("{hundred}-{n}"), "SELECT 1"));
            let said = names.collect::<Vec<_>>().concat();
            s.client_says(&said).await;
            s.server_gets(&said).await;
            let answers = f(b'1', b"").repeat(100);
            s.server_says(&answers).await;
            s.client_gets(&answers).await;
        }
        s.client_says(&[parse("more", "SELECT 1"), sync()].concat())
            .await;
        s.is_refused_up_to_a_sync("54000", "too many named", b'I')
            .await;
        // One that has been closed makes room.
        let closed = [f(b'C', b"S0-0\0"), sync()].concat();
        s.passes(&closed, &[f(b'3', b""), ready(b'I')].concat())
            .await;
        prepares(&mut s, "more", "SELECT 1").await;
    })
    .await;
}

#[tokio::test]
async fn named_texts_without_end_are_refused() {
    on_stage(|mut s| async move {
        let text = format!("SELECT '{}'", "x".repeat(15 << 20));
        for name in ["a", "b", "c", "d"] {
            prepares(&mut s, name, &text).await;
        }
        s.client_says(&parse("e", &text)).await;
        s.server_is_to_fail(b'P').await;
        s.server_says(&error("42601", "syntax error")).await;
        s.client_is_refused("54000", "too many named").await;
    })
    .await;
}

#[tokio::test]
async fn a_description_that_the_client_asked_for_is_waited_for_and_asked_to_be_sent() {
    on_stage(|mut s| async move {
        let asked = prepares_cards_of_a_path_that_changes(&mut s).await;
        let describe = f(b'D', b"Sx\0");
        s.client_says(&[describe.clone(), bind("", "x")].concat())
            .await;
        s.server_gets(&[describe, f(b'H', b"")].concat()).await;
        s.server_says(&described(CARDS[0])).await;
        s.client_gets(&described(CARDS[0])).await;
        s.server_gets(&asked).await;
    })
    .await;
}

#[tokio::test]
async fn texts_in_flight_without_end_wait_for_the_server() {
    on_stage(|mut s| async move {
        let text = format!("SELECT '{}'", "x".repeat(9 << 20));
        for _ in 0..2 {
            s.client_says(&parse("", &text)).await;
            s.server_gets(&parse("", &text)).await;
        }
        s.client_says(&parse("", "SELECT 1")).await;
        s.server_gets(&f(b'H', b"")).await;
        s.nothing_reaches_the_server().await;
        s.server_says(&f(b'1', b"").repeat(2)).await;
        s.client_gets(&f(b'1', b"").repeat(2)).await;
        s.server_gets(&parse("", "SELECT 1")).await;
    })
    .await;
}
