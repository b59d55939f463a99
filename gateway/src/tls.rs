//! Weir's own certificate authority and the leaf certificates that agents see.
//!
//! The authority is made on the first start and kept in a directory of the daemon's (mode 0700):
//! `ca.pem`, which is handed to agents for `sslmode=verify-full`, and `ca.key`, which nobody but
//! the daemon may read. Leafs are made in memory at each start, one for all names of a datastore,
//! and are never written anywhere. The authority survives restarts: a directory whose files are
//! damaged or don't belong together is an error and never a reason to make a new one in silence,
//! as agents that trust the old one would then be cut off.
//!
//! Cryptography is *ring*, named explicitly; the process-wide default provider is never used.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};
use zeroize::Zeroizing;

/// The ALPN protocol id of PostgreSQL, needed for direct TLS (`sslnegotiation=direct`).
pub const ALPN_POSTGRESQL: &[u8] = b"postgresql";

/// The certificate's file name in the authority's directory.
pub const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";

const CA_LIFETIME: Duration = Duration::days(3650);
/// A leaf lives in memory only and is made anew at each start; a daemon that runs for a year
/// without one restart is the only reason for so long a life.
const LEAF_LIFETIME: Duration = Duration::days(365);
/// Clients' clocks may be behind ours.
const CLOCK_SKEW: Duration = Duration::days(1);

/// Why the authority can't be opened or a leaf can't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory of the authority can't be used; `action` is what was tried.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may read the private key.
    #[error("{} may be read by others (mode {mode:o}); run: chmod 600 {}", path.display(), path.display())]
    KeyExposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The certificate is there without its key.
    #[error("{} is there without ca.key; restore the key, or remove the certificate to make a new authority (agents then need the new ca.pem)", path.display())]
    KeyMissing {
        /// The certificate's file.
        path: PathBuf,
    },
    /// A file of the authority doesn't hold what it should.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate wasn't made by Weir for this key.
    #[error("{} doesn't belong to ca.key beside it: {reason}", path.display())]
    Mismatch {
        /// The certificate's file.
        path: PathBuf,
        /// How the two differ.
        reason: &'static str,
    },
    /// The authority's ten years are over.
    #[error("{} expired; remove it and ca.key to make a new authority (agents then need the new ca.pem)", path.display())]
    Expired {
        /// The certificate's file.
        path: PathBuf,
    },
    /// A datastore's name can't stand in a certificate.
    #[error("{0:?} is neither a host name nor an address")]
    Name(String),
    /// A leaf needs at least one name.
    #[error("a certificate needs at least one name")]
    NoName,
    /// A certificate can't be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// rustls doesn't take a certificate that was just made.
    #[error("cannot use the certificate")]
    Tls(#[from] rustls::Error),
}

/// The certificate authority of this host.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    /// Opens the authority in `dir`, or makes it where there is none yet.
    ///
    /// A key without a certificate is what a crash between the two writes leaves: the certificate
    /// is then made again for that key. Every other half or damaged state is an error.
    pub fn open_or_create(dir: &Path) -> Result<Self, Error> {
        create_dir(dir)?;
        let (key_path, cert_path) = (dir.join(KEY_FILE), dir.join(CERTIFICATE_FILE));
        if !exists(&key_path)? {
            if exists(&cert_path)? {
                return Err(Error::KeyMissing { path: cert_path });
            }
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
            write_new(
                &key_path,
                0o600,
                Zeroizing::new(key.serialize_pem()).as_bytes(),
            )?;
        }
        if !exists(&cert_path)? {
            let key = read_key(&key_path)?;
            let certificate = ca_params(&format!("Weir CA {}", host_name())).self_signed(&key)?;
            write_new(&cert_path, 0o644, certificate.pem().as_bytes())?;
        }
        Self::open(dir)
    }

    /// Opens the authority in `dir`; one that isn't there is an error.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let (key_path, cert_path) = (dir.join(KEY_FILE), dir.join(CERTIFICATE_FILE));
        let key = read_key(&key_path)?;
        let pem = fs::read_to_string(&cert_path).map_err(file("read", &cert_path))?;
        let damaged = |reason: String| Error::Damaged {
            path: cert_path.clone(),
            reason,
        };
        let mismatch = |reason| Error::Mismatch {
            path: cert_path.clone(),
            reason,
        };

        let certificate =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| damaged(e.to_string()))?;
        let parsed = Certificate::from_der(&certificate).map_err(|e| damaged(e.to_string()))?;
        let tbs = parsed.tbs_certificate();
        if spki(tbs).as_deref()
            != Some(rcgen::PublicKeyData::subject_public_key_info(&key).as_slice())
        {
            return Err(mismatch("it certifies another key"));
        }
        if tbs.validity().not_after.to_system_time() <= SystemTime::now() {
            return Err(Error::Expired { path: cert_path });
        }
        let name = tbs.subject().common_name().ok().flatten();
        let name = name.ok_or_else(|| mismatch("its subject has no common name"))?;
        let authority = Self {
            issuer: Issuer::new(ca_params(&name.value()), key),
            certificate,
            pem,
        };

        // The issuer is rebuilt from the common name alone. Were the subject anything more than
        // that (a certificate that Weir didn't make), no client could build the chain.
        let (leaf, _) = authority.leaf(&["weir.invalid".to_owned()])?;
        let leaf = Certificate::from_der(&leaf).map_err(|e| damaged(e.to_string()))?;
        if leaf.tbs_certificate().issuer() != tbs.subject() {
            return Err(mismatch("its subject is not one that Weir makes"));
        }
        Ok(authority)
    }

    /// The authority's certificate in PEM, for `sslrootcert`.
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// TLS settings of the listener for one datastore: a new leaf for all of `names` (host names
    /// and addresses), TLS 1.2 and 1.3, ALPN `postgresql`.
    pub fn server_config(&self, names: &[String]) -> Result<Arc<ServerConfig>, Error> {
        let (leaf, key) = self.leaf(names)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_single_cert(vec![leaf, self.certificate.clone()], key)?;
        config.alpn_protocols = vec![ALPN_POSTGRESQL.to_vec()];
        Ok(Arc::new(config))
    }

    fn leaf(
        &self,
        names: &[String],
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), Error> {
        let first = names.first().ok_or(Error::NoName)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(|n| san(n)).collect::<Result<_, _>>()?;
        params.distinguished_name = common_name(first);
        (params.not_before, params.not_after) = validity(LEAF_LIFETIME);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok((certificate.der().clone(), key))
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    // Path length 0: the authority signs leafs and no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = validity(CA_LIFETIME);
    params
}

/// A subject of one common name. X.520 allows 64 characters in it; clients look at the
/// alternative names only, so a longer one is cut.
fn common_name(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(
        DnType::CommonName,
        name.chars().take(64).collect::<String>(),
    );
    dn
}

fn validity(lifetime: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - CLOCK_SKEW, now + lifetime)
}

fn san(name: &str) -> Result<SanType, Error> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    // What rustls' own client would accept as a name to verify.
    rustls::pki_types::DnsName::try_from(name).map_err(|_| Error::Name(name.to_owned()))?;
    let name = name
        .to_owned()
        .try_into()
        .map_err(|_| Error::Name(name.to_owned()))?;
    Ok(SanType::DnsName(name))
}

fn spki(tbs: &x509_cert::TbsCertificate) -> Option<Vec<u8>> {
    tbs.subject_public_key_info().to_der().ok()
}

fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown host".to_owned(), |name| name.trim().to_owned())
}

fn create_dir(dir: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(file("create", dir))
}

fn exists(path: &Path) -> Result<bool, Error> {
    path.try_exists().map_err(file("look for", path))
}

fn read_key(path: &Path) -> Result<KeyPair, Error> {
    let mode = fs::metadata(path).map_err(file("read", path))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::KeyExposed {
            path: path.to_owned(),
            mode,
        });
    }
    let pem = Zeroizing::new(fs::read_to_string(path).map_err(file("read", path))?);
    let damaged = |e: rcgen::Error| Error::Damaged {
        path: path.to_owned(),
        reason: e.to_string(),
    };
    KeyPair::from_pem_and_sign_algo(&pem, &rcgen::PKCS_ECDSA_P256_SHA256).map_err(damaged)
}

/// Writes a file that appears whole or not at all, with its mode from the first byte on.
fn write_new(path: &Path, mode: u32, content: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = (|| {
        let mut f = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        f.write_all(content)?;
        f.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent()
            .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    })();
    written.map_err(|source| {
        // Best effort: the error that is returned is the one that matters.
        let _ = fs::remove_file(&temporary);
        file("write", path)(source)
    })
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    /// Verifies a leaf as a client with `ca_pem` as its only root does.
    fn verify(ca_pem: &str, leaf: &CertificateDer<'_>, name: &str) -> Result<(), rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier
            .verify_server_cert(leaf, &[], &name, &[], UnixTime::now())
            .map(drop)
    }

    #[test]
    fn leafs_verify_against_the_ca_for_each_of_their_names_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        let (leaf, _) = authority
            .leaf(&names(&["db.prod.internal", "10.0.3.7", "fd00::1"]))
            .unwrap();
        for name in ["db.prod.internal", "10.0.3.7", "fd00::1"] {
            verify(authority.ca_pem(), &leaf, name).unwrap();
        }
        assert!(verify(authority.ca_pem(), &leaf, "other.internal").is_err());
        assert!(verify(authority.ca_pem(), &leaf, "10.0.3.8").is_err());
    }

    #[test]
    fn leafs_made_after_a_restart_verify_against_the_ca_from_before() {
        let dir = tempfile::tempdir().unwrap();
        let before = Authority::open_or_create(dir.path())
            .unwrap()
            .ca_pem()
            .to_owned();
        let after = Authority::open_or_create(dir.path()).unwrap();
        assert_eq!(before, after.ca_pem());
        let (leaf, _) = after.leaf(&names(&["db"])).unwrap();
        verify(&before, &leaf, "db").unwrap();
    }

    #[test]
    fn the_key_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("ca");
        Authority::open_or_create(&dir).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join(KEY_FILE)), 0o600);
        assert_eq!(
            fs::read_dir(&dir).unwrap().count(),
            2,
            "no temporary file stays behind"
        );

        fs::set_permissions(dir.join(KEY_FILE), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            Authority::open_or_create(&dir),
            Err(Error::KeyExposed { mode: 0o640, .. })
        ));
    }

    #[test]
    fn damaged_or_mixed_files_are_errors_and_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        Authority::open_or_create(dir.path()).unwrap();
        Authority::open_or_create(other.path()).unwrap();
        let cert = dir.path().join(CERTIFICATE_FILE);
        let key = dir.path().join(KEY_FILE);
        let good = fs::read(&cert).unwrap();

        fs::copy(other.path().join(CERTIFICATE_FILE), &cert).unwrap();
        let error = Authority::open_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");

        fs::write(
            &cert,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        let error = Authority::open_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(fs::read_to_string(&cert).unwrap().contains("AAAA"));

        fs::write(&cert, &good).unwrap();
        fs::write(&key, "nonsense").unwrap();
        let error = Authority::open_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");

        fs::remove_file(&key).unwrap();
        let error = Authority::open_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, Error::KeyMissing { .. }), "{error}");
    }

    #[test]
    fn a_certificate_that_weir_did_not_make_is_refused_even_for_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open_or_create(dir.path()).unwrap();
        let key = read_key(&dir.path().join(KEY_FILE)).unwrap();
        let mut params = ca_params("Somebody's CA");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Somebody");
        fs::write(
            dir.path().join(CERTIFICATE_FILE),
            params.self_signed(&key).unwrap().pem(),
        )
        .unwrap();
        assert!(matches!(
            Authority::open(dir.path()),
            Err(Error::Mismatch { .. })
        ));
    }

    #[test]
    fn an_expired_authority_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open_or_create(dir.path()).unwrap();
        let key = read_key(&dir.path().join(KEY_FILE)).unwrap();
        let mut params = ca_params("Weir CA old");
        params.not_after = OffsetDateTime::now_utc() - Duration::hours(1);
        fs::write(
            dir.path().join(CERTIFICATE_FILE),
            params.self_signed(&key).unwrap().pem(),
        )
        .unwrap();
        assert!(matches!(
            Authority::open(dir.path()),
            Err(Error::Expired { .. })
        ));
    }

    #[test]
    fn a_crash_between_the_two_files_is_healed() {
        let dir = tempfile::tempdir().unwrap();
        let before = Authority::open_or_create(dir.path())
            .unwrap()
            .ca_pem()
            .to_owned();
        fs::remove_file(dir.path().join(CERTIFICATE_FILE)).unwrap();
        let healed = Authority::open_or_create(dir.path()).unwrap();
        let (leaf, _) = healed.leaf(&names(&["db"])).unwrap();
        verify(healed.ca_pem(), &leaf, "db").unwrap();
        // The same key and name: clients that hold the lost certificate go on working.
        verify(&before, &leaf, "db").unwrap();
    }

    #[test]
    fn names_that_cannot_stand_in_a_certificate_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        for bad in ["", "a b", "db\0.internal", "dät.example"] {
            assert!(
                matches!(authority.server_config(&names(&[bad])), Err(Error::Name(_))),
                "{bad:?}"
            );
        }
        assert!(matches!(authority.server_config(&[]), Err(Error::NoName)));
        let config = authority.server_config(&names(&["db"])).unwrap();
        assert_eq!(config.alpn_protocols, [ALPN_POSTGRESQL]);
    }
}
