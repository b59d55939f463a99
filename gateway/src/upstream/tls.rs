//! TLS towards a server: `SSLRequest`, verification by the setting, and the channel binding that
//! ties SCRAM to the server's certificate.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_cert::der::Decode;

use super::error::{Error, Step};
use super::stream::Stream;
use crate::tls::ALPN_POSTGRESQL;

/// <https://www.postgresql.org/docs/current/protocol-message-formats.html>, `SSLRequest`.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// How the connection to a server is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsMode {
    /// Not at all.
    Disable,
    /// Encrypted, to whoever answers: anyone on the way could be the server.
    Require,
    /// Encrypted, to a server whose certificate names it and comes from one of the authorities.
    VerifyFull {
        /// The authorities, in PEM.
        ca: PathBuf,
    },
}

/// [`TlsMode`], made ready: the authorities are loaded once, not for each connection.
#[derive(Clone)]
pub struct Tls(Option<Arc<ClientConfig>>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Tls(on)"
        } else {
            "Tls(off)"
        })
    }
}

impl Tls {
    /// Loads what `mode` needs.
    pub fn new(mode: &TlsMode) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match mode {
            TlsMode::Disable => return Ok(Self(None)),
            TlsMode::Require => Arc::new(AnyCertificate(Arc::clone(&provider))),
            TlsMode::VerifyFull { ca } => {
                let roots = Arc::new(roots(ca)?);
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                    .build()
                    .map_err(|e| Error::Ca {
                        path: ca.clone(),
                        source: e.into(),
                    })?
            }
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| Error::TlsSettings(e.into()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN_POSTGRESQL.to_vec()];
        Ok(Self(Some(Arc::new(config))))
    }

    /// Takes a fresh connection to what the setting asks for; never to less.
    pub(super) async fn negotiate(
        &self,
        mut tcp: TcpStream,
        name: Option<&str>,
        dst: SocketAddr,
    ) -> Result<Stream, Error> {
        let Some(config) = &self.0 else {
            return Ok(Stream::Plain(tcp));
        };
        let name = match name {
            Some(name) => ServerName::try_from(name.to_owned())
                .map_err(|_| Error::ServerName(name.to_owned()))?,
            None => ServerName::from(dst.ip()),
        };
        tcp.write_all(&SSL_REQUEST)
            .await
            .map_err(|e| Error::Io(Step::Tls, e))?;
        // Exactly one byte is read in the clear. Whatever follows it, injected or not, can only be
        // read as part of the handshake (CVE-2021-23222 was a client that buffered it).
        let mut answer = [0];
        tcp.read_exact(&mut answer)
            .await
            .map_err(|e| Error::Io(Step::Tls, e))?;
        match &answer {
            b"S" => {}
            b"N" => return Err(Error::TlsRefused),
            // An 'E' begins an error of a server from before 2000, or of somebody in between
            // (CVE-2024-10977): its text is nothing to show.
            _ => {
                let what = "SSLRequest was answered with neither S nor N";
                return Err(Error::Protocol {
                    step: Step::Tls,
                    what,
                });
            }
        }
        let tls = TlsConnector::from(Arc::clone(config))
            .connect(name, tcp)
            .await;
        Ok(Stream::Tls(Box::new(tls.map_err(Error::Tls)?)))
    }
}

/// The data of `tls-server-end-point` (RFC 5929, section 4.1) for this connection: a hash of the
/// server's certificate. `None` without TLS, and for signature algorithms that don't define one
/// hash (Ed25519, RSA-PSS): the RFC leaves those undefined, and servers differ.
pub(super) fn channel_binding(stream: &Stream) -> Option<Vec<u8>> {
    let Stream::Tls(tls) = stream else {
        return None;
    };
    end_point(tls.get_ref().1.peer_certificates()?.first()?)
}

fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let algorithm = parsed.signature_algorithm().oid.to_string();
    Some(match algorithm.as_str() {
        // MD5 and SHA-1 are replaced by SHA-256, says the RFC.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" => {
            sha256(certificate)
        }
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => sha256(certificate),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => {
            sha2::Sha224::digest(certificate).to_vec()
        }
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => {
            sha2::Sha384::digest(certificate).to_vec()
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => {
            sha2::Sha512::digest(certificate).to_vec()
        }
        _ => return None,
    })
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    sha2::Sha256::digest(bytes).to_vec()
}

fn roots(ca: &Path) -> Result<RootCertStore, Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Ca {
        path: ca.to_owned(),
        source,
    };
    let pem = std::fs::read(ca).map_err(|e| failed(e.into()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| failed(e.into()))?;
        roots.add(certificate).map_err(|e| failed(e.into()))?;
    }
    if roots.is_empty() {
        return Err(failed("there is no certificate in it".into()));
    }
    Ok(roots)
}

/// Takes any certificate, and only checks that the server holds its key (`sslmode=require`).
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn self_signed(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::default()
            .self_signed(&key)
            .unwrap()
            .der()
            .to_vec()
    }

    #[test]
    fn the_channel_binding_hashes_by_the_signatures_algorithm() {
        let certificate = self_signed(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(end_point(&certificate).unwrap(), sha256(&certificate));
        let certificate = self_signed(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(
            end_point(&certificate).unwrap(),
            sha2::Sha384::digest(&certificate).to_vec()
        );
        assert_eq!(end_point(&self_signed(&rcgen::PKCS_ED25519)), None);
        assert_eq!(end_point(b"not a certificate"), None);
    }

    #[test]
    fn authorities_that_cannot_be_loaded_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        let load = || Tls::new(&TlsMode::VerifyFull { ca: ca.clone() });
        assert!(matches!(load(), Err(Error::Ca { .. })), "missing");
        std::fs::write(&ca, "no certificate here").unwrap();
        assert!(matches!(load(), Err(Error::Ca { .. })), "empty");
        std::fs::write(
            &ca,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        assert!(matches!(load(), Err(Error::Ca { .. })), "damaged");
    }
}
