//! TLS on both sides.

use std::{fs, path::PathBuf};

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair};
use xtask::world::{ADDRESS, Settings};

use crate::support::{Stage, client, refusal};

/// Weir's certificate authority, in a file, as an operator would put it into an image.
fn authority(stage: &Stage) -> Result<PathBuf> {
    let printed = stage.weir.cli(&["ca"])?;
    assert!(
        printed.stdout.starts_with("-----BEGIN CERTIFICATE-----"),
        "{printed:?}"
    );
    let path = stage.world.dir().join("weir-ca.pem");
    fs::write(&path, printed.stdout + "\n")?;
    Ok(path)
}

#[test]
fn sslmode_require_works_at_once() -> Result<()> {
    let stage = Stage::new()?;
    let seen = stage
        .agent
        .psql_with("\\conninfo\nSELECT 1", &[("PGSSLMODE", "require")])?;
    assert!(seen.stdout.contains("SSL connection"), "{seen:?}");
    Ok(())
}

#[test]
fn sslmode_verify_full_works_with_the_printed_authority_and_fails_without() -> Result<()> {
    let stage = Stage::new()?;
    let ca = authority(&stage)?.display().to_string();
    let verified = [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", ca.as_str())];
    let seen = stage
        .agent
        .psql_with("SELECT ssn FROM customers WHERE id = 1", &verified)?;
    assert_eq!(seen.stdout, "*******6789", "{seen:?}");

    let system = "/etc/ssl/certs/ca-certificates.crt";
    let other = if fs::exists(system)? {
        system
    } else {
        "/dev/null"
    };
    let wrong = [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", other)];
    assert!(!stage.agent.psql_with("SELECT 1", &wrong)?.stderr.is_empty());
    Ok(())
}

#[test]
fn drivers_work_over_tls() -> Result<()> {
    let stage = Stage::new()?;
    for name in ["psycopg3.py", "asyncpg_client.py"] {
        stage.world.postgres().sql("TRUNCATE scratch")?;
        let seen = client(&stage.agent, name, &[("PGSSLMODE", "require")])?;
        assert!(seen.ok() && seen.stdout.ends_with("ok"), "{name}: {seen:?}");
    }
    Ok(())
}

#[test]
fn a_datastore_that_requires_tls_refuses_plain_text() -> Result<()> {
    let stage = Stage::with(&Settings::default(), |_, setup| {
        Ok(xtask::world::Setup {
            client_tls: "require",
            ..setup
        })
    })?;
    let told = refusal(&stage.agent, &[])?;
    assert!(told.starts_with("FATAL 28000"), "{told}");
    let seen = stage
        .agent
        .psql_with("SELECT 'sealed'", &[("PGSSLMODE", "require")])?;
    assert_eq!(seen.stdout, "sealed", "{seen:?}");
    Ok(())
}

/// A server's certificate that is its own authority, for its address.
fn certificate() -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![ADDRESS.to_owned()])?.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

#[test]
fn the_way_upstream_is_verified_and_bound_to_its_channel() -> Result<()> {
    let (certificate, key) = certificate()?;
    let server = Settings {
        tls: Some((certificate.clone(), key)),
        ..Settings::default()
    };
    let stage = Stage::with(&server, |world, mut setup| {
        let ca = world.dir().join("upstream-ca.pem");
        fs::write(&ca, &certificate)?;
        setup.upstream_tls = format!(
            "{{ mode = \"verify-full\", ca = {:?} }}",
            ca.display().to_string()
        );
        setup.hosts.truncate(1);
        Ok(setup)
    })?;
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let seen = stage.agent.psql(sql)?;
    assert_eq!(seen.stdout, "t", "{seen:?}");
    Ok(())
}

#[test]
fn an_upstream_that_is_not_who_it_should_be_gets_no_login() -> Result<()> {
    let (server, other) = (certificate()?, certificate()?);
    let server = Settings {
        tls: Some(server),
        extra: "log_connections = on".to_owned(),
        ..Settings::default()
    };
    let stage = Stage::with(&server, |world, mut setup| {
        let ca = world.dir().join("upstream-ca.pem");
        fs::write(&ca, &other.0)?;
        setup.upstream_tls = format!(
            "{{ mode = \"verify-full\", ca = {:?} }}",
            ca.display().to_string()
        );
        Ok(setup)
    })?;
    let told = refusal(&stage.agent, &[])?;
    assert!(told.starts_with("FATAL 57P03"), "{told}");
    assert!(
        !stage.world.postgres().log().contains("user=weir_agents"),
        "it logged in"
    );
    Ok(())
}
