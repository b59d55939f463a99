//! The catalog snapshot and the masks against a real PostgreSQL: views are traced as the server
//! resolves them, and what masks put in place of values is what the server itself accepts.
//!
//! Needs the server's programs; it listens on loopback, with its data in a temporary folder.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, getegid, geteuid};
use weir::catalog::{Catalog, Depends, Origin, Relation};
use weir::credential::Source;
use weir::mask::{Cover, Field, Key, Mask, MaskSet, Planned, Request, RowPlan, Why, resolve};
use weir::sql;
use weir::upstream::catalog::load;
use weir::upstream::{AuthPolicy, Connection, Login, Target, Tls, TlsMode};

/// A server of its own, stopped when dropped.
struct Postgres {
    dir: tempfile::TempDir,
    port: u16,
    server: Child,
}

impl Postgres {
    fn start() -> Postgres {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (uid, gid) = server_user();
        std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).expect("chown");
        let data = dir.path().join("data");
        let made = program("initdb")
            .args(["--auth=trust", "--no-sync", "--username=postgres"])
            .args(["--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data)
            .current_dir(dir.path())
            .uid(uid)
            .gid(gid)
            .output()
            .expect("initdb runs");
        assert_success(&made);
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let server = program("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-k"])
            .arg(dir.path())
            .args(["-p", &port.to_string()])
            .current_dir(dir.path())
            .stderr(Stdio::null())
            .uid(uid)
            .gid(gid)
            .spawn()
            .expect("postgres runs");
        let postgres = Postgres { dir, port, server };
        let limit = Instant::now() + Duration::from_secs(60);
        while !postgres.psql(&["-c", "SELECT 1"], b"").status.success() {
            assert!(Instant::now() < limit, "the server doesn't come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        postgres
    }

    fn psql(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut psql = program("psql")
            .args(["-X", "-q", "-A", "-t", "-U", "postgres", "-h"])
            .arg(self.dir.path())
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql runs");
        let mut stdin = psql.stdin.take().expect("piped");
        // It may end without reading: its status tells.
        let _ = stdin.write_all(input);
        drop(stdin);
        psql.wait_with_output().expect("psql ends")
    }

    /// What a command prints.
    fn run(&self, sql: &str, input: &[u8]) -> Vec<u8> {
        let output = self.psql(&["-v", "ON_ERROR_STOP=1", "-c", sql], input);
        assert_success(&output);
        output.stdout
    }

    fn text(&self, sql: &str) -> String {
        let text = String::from_utf8(self.run(sql, b"")).expect("UTF-8");
        text.trim_end_matches('\n').to_owned()
    }

    /// A snapshot, loaded as the daemon loads it.
    fn catalog(&self) -> Catalog {
        let target = Target {
            server_name: None,
            tls: Tls::new(&TlsMode::Disable).expect("nothing to load"),
            login: Login {
                user: "postgres".to_owned(),
                // Never asked for: the server trusts whoever reaches it.
                password: Source::Env {
                    variable: "WEIR_TEST_UNSET".to_owned(),
                },
                allow: AuthPolicy::default(),
            },
            connect_timeout: Duration::from_secs(10),
        };
        let address = (Ipv4Addr::LOCALHOST, self.port).into();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let opened = Connection::open(&target, address, "postgres").await;
            let mut connection = opened.expect("the server answers");
            load(&mut connection).await.expect("a catalog")
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once: nothing of its data is needed any more.
        if let Ok(pid) = i32::try_from(self.server.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
        }
        let _ = self.server.wait();
    }
}

fn assert_success(output: &Output) {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The newest installed version's program, or the one in PATH.
fn program(name: &str) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let programs = versions.map(|version| version.path().join("bin").join(name));
    let newest: Option<PathBuf> = programs.filter(|path| path.exists()).max();
    Command::new(newest.as_deref().unwrap_or(Path::new(name)))
}

/// The server refuses to run as root.
fn server_user() -> (u32, u32) {
    if !geteuid().is_root() {
        return (geteuid().as_raw(), getegid().as_raw());
    }
    let named = |name: &&str| User::from_name(name).ok().flatten();
    let user = ["postgres", "nobody"]
        .iter()
        .find_map(named)
        .expect("a user postgres or nobody");
    (user.uid.as_raw(), user.gid.as_raw())
}

fn relation<'a>(catalog: &'a Catalog, name: &str) -> &'a Relation {
    let found = catalog.resolve(
        &sql::Name {
            schema: None,
            name: name.into(),
        },
        None,
    );
    assert_eq!(found.len(), 1, "{name}");
    found[0]
}

fn masks(catalog: &Catalog, table: &'static str, column: &str, mask: Mask) -> MaskSet {
    let request = Request {
        objects: Arc::new(move |schema, name| {
            schema.is_none_or(|s| s == "public") && name == table
        }),
        columns: [column.into()].into(),
        mask,
        rule: "test".into(),
    };
    let (set, unresolved) = resolve(vec![request], catalog);
    assert_eq!(unresolved, []);
    set
}

const SCHEMA: &str = r#"
    CREATE TABLE customers (id int, gone int, name text, ssn text) PARTITION BY RANGE (id);
    ALTER TABLE customers DROP COLUMN gone;
    CREATE TABLE customers_1 (ssn text, name text, id int);
    ALTER TABLE customers ATTACH PARTITION customers_1 FOR VALUES FROM (0) TO (100);
    CREATE TABLE orders (id int, customer int);
    CREATE TABLE people (id int, ssn text, twice int GENERATED ALWAYS AS (id * 2) STORED,
        tail text GENERATED ALWAYS AS (right(ssn, 4) || id) STORED);
    CREATE TABLE patients (id int, ssn text);
    CREATE TABLE members (id int, ssn text);
    CREATE TABLE both_kinds (extra int) INHERITS (patients, members);
    CREATE VIEW people_view AS SELECT tail, twice FROM people;
    CREATE FUNCTION leak() RETURNS SETOF text LANGUAGE sql AS 'SELECT ssn FROM customers';
    CREATE VIEW plain AS SELECT id, ssn AS " :resorigtbl {x} \ <>", name FROM customers;
    CREATE VIEW over_plain AS SELECT " :resorigtbl {x} \ <>" AS s, id FROM plain;
    CREATE VIEW misnamed AS SELECT id AS ":resorigtbl", ssn AS "<>" FROM customers;
    CREATE VIEW sub_query AS SELECT q.s, q.id FROM (SELECT ssn AS s, id FROM customers) q ORDER BY 1;
    CREATE VIEW cte AS WITH c AS (SELECT ssn AS s, id FROM customers) SELECT s, id FROM c;
    CREATE VIEW joined AS SELECT c.ssn, o.id FROM orders o LEFT JOIN customers c ON c.id = o.customer;
    CREATE VIEW full_join AS SELECT ssn, id FROM customers FULL JOIN customers_1 USING (ssn, id);
    CREATE VIEW union_all AS SELECT ssn, id FROM customers UNION ALL SELECT 'x', 1;
    CREATE VIEW computed AS SELECT upper(ssn) AS u, id FROM customers;
    CREATE VIEW whole AS SELECT c, id FROM customers c;
    CREATE VIEW whole_json AS SELECT row_to_json(c) AS j, 1 AS one FROM customers c;
    CREATE VIEW of_whole AS SELECT (w.c).ssn, w.id FROM whole w;
    CREATE VIEW harmless AS SELECT count(*) AS n, max(id) AS m FROM customers;
    CREATE VIEW filtered AS SELECT id, name FROM customers WHERE ssn LIKE '1%';
    CREATE VIEW over_filtered AS SELECT count(*) AS n FROM filtered;
    CREATE VIEW by_function AS SELECT l FROM leak() l;
    CREATE EXTENSION tablefunc;
    CREATE EXTENSION pageinspect;
    CREATE EXTENSION pg_trgm;
    CREATE EXTENSION fuzzystrmatch;
    CREATE VIEW by_crosstab AS SELECT a FROM
        crosstab('SELECT 1, 1, ssn FROM customers') AS t (r int, a text);
    CREATE VIEW by_connectby AS SELECT k FROM
        connectby('customers', 'ssn', 'name', 'a', 0) AS t (k text, parent text, level int);
    CREATE VIEW by_pages AS SELECT t_data FROM heap_page_items(get_raw_page('customers_1', 0));
    CREATE VIEW by_extension AS SELECT 'a' % 'b' AS like_b, levenshtein('a', 'b') AS far;
    CREATE VIEW by_xml AS SELECT query_to_xml('SELECT ssn FROM customers', true, true, '') AS x;
    CREATE MATERIALIZED VIEW grouped AS SELECT ssn, count(*) AS n FROM customers GROUP BY ssn;
    CREATE VIEW over_grouped AS SELECT ssn, n FROM grouped;
    CREATE VIEW lateral_one AS SELECT l.ssn FROM orders o,
        LATERAL (SELECT ssn FROM customers WHERE id = o.id LIMIT 1) l;
    CREATE VIEW recursive_one AS WITH RECURSIVE r AS (SELECT ssn FROM customers UNION SELECT ssn FROM r)
        SELECT ssn FROM r;
    CREATE VIEW over_stats AS SELECT tablename, histogram_bounds::text AS bounds FROM pg_stats;
    CREATE VIEW over_over_stats AS SELECT upper(bounds) AS u FROM over_stats;
    CREATE VIEW over_statistic AS SELECT stanumbers1, stavalues1::text AS v FROM pg_statistic;
    CREATE VIEW over_activity AS SELECT pid, query FROM pg_stat_activity;
    CREATE VIEW by_activity AS SELECT query FROM pg_stat_get_activity(NULL);
    CREATE VIEW over_tables AS SELECT relname, upper(relname) AS u FROM pg_stat_user_tables;
    CREATE VIEW over_attributes AS SELECT attname, attmissingval::text AS v FROM pg_attribute;
    CREATE SCHEMA vault CREATE TABLE salaries (id int, amount int) PARTITION BY RANGE (id)
        CREATE INDEX salary ON salaries (amount);
    CREATE VIEW over_system AS SELECT relname, upper(relname) AS u FROM pg_class;
"#;

/// What each relation's columns show of a masked `customers.ssn`: M masked, O opaque, - nothing.
const COVERS: [(&str, &str); 37] = [
    ("customers", "--M"),
    ("customers_1", "M--"),
    ("orders", "--"),
    ("plain", "-M-"),
    ("over_plain", "M-"),
    ("misnamed", "-M"),
    ("sub_query", "M-"),
    ("cte", "M-"),
    ("joined", "M-"),
    ("full_join", "OO"),
    ("union_all", "OO"),
    ("computed", "O-"),
    ("whole", "O-"),
    ("whole_json", "OO"),
    ("of_whole", "O-"),
    ("harmless", "--"),
    ("filtered", "--"),
    ("over_filtered", "O"),
    ("by_function", "O"),
    ("by_crosstab", "O"),
    ("by_connectby", "O"),
    ("by_pages", "O"),
    ("by_extension", "--"),
    ("by_xml", "O"),
    ("grouped", "MO"),
    ("over_grouped", "MO"),
    ("lateral_one", "M"),
    ("recursive_one", "O"),
    ("over_stats", "OO"),
    ("over_over_stats", "O"),
    ("over_statistic", "OO"),
    ("over_activity", "OO"),
    ("by_activity", "O"),
    ("over_tables", "--"),
    ("over_system", "--"),
    ("pg_am", "----"),
    ("over_attributes", "-O"),
];

#[test]
fn views_are_traced_as_the_server_resolves_them() {
    let postgres = Postgres::start();
    postgres.run(SCHEMA, b"");
    let catalog = postgres.catalog();
    let set = masks(&catalog, "customers", "ssn", Mask::Redact);

    for (name, expected) in COVERS {
        let relation = relation(&catalog, name);
        let show = |cover| match cover {
            Cover::Masked(_) => 'M',
            Cover::Opaque => 'O',
            Cover::Clear => '-',
            Cover::Unknown => '?',
        };
        let columns = relation.columns.iter();
        let covers: String = columns
            .map(|c| show(set.of(relation.oid, c.attnum)))
            .collect();
        assert_eq!(covers, expected, "{name}");
    }

    let generated = masks(&catalog, "people", "ssn", Mask::Redact);
    let people = relation(&catalog, "people");
    let of = |name| generated.of(people.oid, people.column(name).expect("a column").attnum);
    assert_eq!((of("tail"), of("twice")), (Cover::Opaque, Cover::Clear));
    let view = relation(&catalog, "people_view").oid;
    assert_eq!(generated.of(view, 1), Cover::Opaque);
    assert_eq!(generated.of(view, 2), Cover::Clear);

    // The rows of a table with two parents are read through either.
    let inherited = masks(&catalog, "patients", "ssn", Mask::Redact);
    for name in ["patients", "both_kinds", "members"] {
        let relation = relation(&catalog, name);
        let attnum = relation.column("ssn").expect("a column").attnum;
        let cover = inherited.of(relation.oid, attnum);
        assert_eq!(cover, Cover::Masked(&Mask::Redact), "{name}");
    }

    let base = relation(&catalog, "customers");
    let attnum = base.column("ssn").expect("a column").attnum;
    let origin = relation(&catalog, "over_plain").columns[0].origin;
    assert_eq!(
        origin,
        Origin::Plain {
            oid: base.oid,
            attnum
        }
    );
    assert_eq!(set.of(base.oid, 0), Cover::Opaque);
    assert!(set.is_sensitive(relation(&catalog, "filtered").oid));
    assert!(!set.is_sensitive(relation(&catalog, "orders").oid));
    let attributes = relation(&catalog, "pg_attribute");
    assert!(!set.is_sensitive(attributes.oid));
    let of = |name| {
        set.of(
            attributes.oid,
            attributes.column(name).expect("a column").attnum,
        )
    };
    assert_eq!(of("attmissingval"), Cover::Masked(&Mask::Null));
    assert_eq!(of("attname"), Cover::Clear);
    assert_eq!(relation(&catalog, "pg_stats").depends, Depends::System);
    let index = |schema: Option<&str>| sql::Name {
        schema: schema.map(Into::into),
        name: "salary".into(),
    };
    let path: [Box<str>; 1] = ["public".into()];
    for (name, path, expected) in [
        (index(None), None, &["vault"][..]),
        (index(Some("vault")), Some(&path[..]), &["vault"]),
        (index(None), Some(&path), &[]),
    ] {
        assert_eq!(catalog.indexes(&name, path).collect::<Vec<_>>(), expected);
        assert_eq!(catalog.resolve(&name, path).len(), 0);
    }
    let toast = "SELECT reltoastrelid FROM pg_class WHERE relname = 'customers_1'";
    let toast = postgres.text(toast).parse().expect("an oid");
    assert_eq!(set.of(toast, 1), Cover::Unknown);
}

const TYPES: &str = r#"
    CREATE EXTENSION citext;
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN year AS int4;
    CREATE TABLE originals (
        a text, b varchar(5), c char(12), d name, e citext, f int2, g int4, h int8, i float4, j float8,
        k numeric(10, 2), l bool, m date, n time, o timetz, p timestamp, q timestamptz, r interval, s uuid,
        t bytea, u json, v jsonb, w inet, x cidr, y int4[], z text[], mood mood, year year, mac macaddr,
        range int4range, point point, missing text);
    INSERT INTO originals VALUES (
        'jane@example.com', 'ab@cd', '4111', 'name', 'x@y.z', -3, -4, -5, 1.5, 2.5, -12.75, true,
        '1999-12-31', '12:00', '12:00+02', '1999-12-31 12:00', '1999-12-31 12:00+02', '1 day',
        'c0ffee00-0000-4000-8000-000000000001', '\xc0ffee', '{"a": 1}', '{"a": 1}',
        '10.0.0.1', '10.0.0.0/8', '{1,2}', '{a,NULL}', 'ok', 7, '08:00:2b:01:02:03', '[1,2)', '(1,2)', NULL);
    CREATE TABLE from_text (LIKE originals);
    CREATE TABLE from_binary (LIKE originals);
"#;

/// Rows in which any value, but for the boolean, has come through.
const KEPT: &str = "SELECT count(*) FROM from_text f, originals o WHERE \
    o.a = f.a OR o.b = f.b OR o.c = f.c OR o.d = f.d OR o.e = f.e OR o.f = f.f OR o.g = f.g OR o.h = f.h \
    OR o.i = f.i OR o.j = f.j OR o.k = f.k OR o.m = f.m OR o.n = f.n OR o.o = f.o OR o.p = f.p OR o.q = f.q \
    OR o.r = f.r OR o.s = f.s OR o.t = f.t OR o.u::text = f.u::text OR o.v = f.v OR o.w = f.w OR o.x = f.x \
    OR o.y = f.y OR o.z = f.z OR o.mood = f.mood OR o.year = f.year OR o.mac = f.mac OR o.range = f.range \
    OR o.point ~= f.point OR f.missing IS NOT NULL";

#[test]
fn masked_values_of_every_type_are_valid_and_the_same_in_text_and_binary() {
    let postgres = Postgres::start();
    postgres.run(TYPES, b"");
    let catalog = postgres.catalog();
    let binary = postgres.run("COPY originals TO STDOUT (FORMAT binary)", b"");
    // A row of binary COPY is laid out as a DataRow; before it stand 19 bytes, after it two.
    let (header, row) = binary[..binary.len() - 2].split_at(19);
    let text_row = data_row(&postgres.text("SELECT * FROM originals"));

    let constants = [
        "12",
        "2020-02-29",
        "true",
        "-0.50",
        "c0ffee00-0000-4000-8000-00000000000f",
    ];
    let mut masks_to_try = vec![
        Mask::Redact,
        Mask::Null,
        Mask::Partial {
            keep_first: 1,
            keep_last: 2,
            with: '●',
        },
        Mask::Email,
        Mask::Card,
        Mask::Hmac {
            key: Arc::new(Key::new(b"secret".to_vec())),
        },
    ];
    masks_to_try.extend(constants.map(|text| Mask::Constant(text.into())));
    for mask in masks_to_try {
        let plan = plan_for_all(&catalog, &mask);
        let input = [
            header,
            &masked(&plan.with_formats(&[1]), row),
            &[0xff, 0xff],
        ]
        .concat();
        postgres.run("COPY from_binary FROM STDIN (FORMAT binary)", &input);
        let input = copy_line(&masked(&plan, &text_row));
        postgres.run("COPY from_text FROM STDIN", input.as_bytes());

        let shown = |table: &str| postgres.text(&format!("SELECT * FROM {table}"));
        assert_eq!(shown("from_text"), shown("from_binary"), "{mask:?}");
        assert_eq!(postgres.text(KEPT), "0", "{mask:?}: {}", shown("from_text"));
        postgres.run("TRUNCATE from_text, from_binary", b"");
    }
}

/// A plan that masks all columns of `originals`.
fn plan_for_all(catalog: &Catalog, mask: &Mask) -> RowPlan {
    let set = masks(catalog, "originals", "*", mask.clone());
    let relation = relation(catalog, "originals");
    let fields: Vec<_> = relation
        .columns
        .iter()
        .map(|column| Field {
            table_oid: relation.oid,
            attnum: column.attnum,
            type_oid: column.type_oid,
            typmod: column.typmod,
            format: 0,
        })
        .collect();
    let whole_row = [Field {
        attnum: 0,
        ..fields[0]
    }];
    let refusal = match RowPlan::build(&set, &whole_row, false) {
        Planned::Refuse(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!((refusal.column, refusal.why), (0, Why::WholeRow));
    match RowPlan::build(&set, &fields, true) {
        Planned::Mask(plan) => plan,
        other => panic!("{other:?}"),
    }
}

fn masked(plan: &RowPlan, row: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    plan.apply(row, &mut frame).expect("well-formed");
    frame.split_off(5)
}

/// The body of a DataRow with the cells that psql prints; empty ones are NULL.
fn data_row(printed: &str) -> Vec<u8> {
    let cells: Vec<_> = printed.split('|').collect();
    let mut row = u16::try_from(cells.len())
        .expect("few")
        .to_be_bytes()
        .to_vec();
    for cell in cells {
        let length = i32::try_from(cell.len()).expect("short");
        row.extend(if length == 0 { -1 } else { length }.to_be_bytes());
        row.extend(cell.as_bytes());
    }
    row
}

/// The cells of a DataRow's body as a line of text COPY.
fn copy_line(row: &[u8]) -> String {
    let mut cells = Vec::new();
    let mut rest = &row[2..];
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = i32::from_be_bytes(*length);
        let (cell, after) = after.split_at(usize::try_from(length).unwrap_or(0));
        let text = std::str::from_utf8(cell)
            .expect("UTF-8")
            .replace('\\', "\\\\");
        cells.push(if length < 0 { "\\N".to_owned() } else { text });
        rest = after;
    }
    cells.join("\t") + "\n"
}
