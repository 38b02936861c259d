//! What the flags say about TLS, for one side: clients or members.
//!
//! Owns: which files and rules there are, and the names of cipher suites. May touch: text only; no file is read.

use std::path::PathBuf;

/// One side's TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificate chain, PEM.
    pub cert: Option<PathBuf>,
    /// Its key, PEM.
    pub key: Option<PathBuf>,
    /// Authorities whose certificates are believed, PEM; the system's when there is none.
    pub trusted_ca: Option<PathBuf>,
    /// A list of revoked certificates.
    pub crl: Option<PathBuf>,
    /// Who connects must show a certificate. A trusted CA alone asks for one as well, as in etcd.
    pub cert_auth: bool,
    /// Where a certificate of one's own making is kept, when one is wanted.
    pub auto: Option<PathBuf>,
    /// The common name that certificates must carry.
    pub allowed_cn: Option<String>,
    /// The host name that certificates must carry.
    pub allowed_hostname: Option<String>,
    /// Do not compare a member's certificate with the address it comes from.
    pub any_address: bool,
    /// Cipher suites for TLS 1.2 under Go's names; empty for all.
    pub cipher_suites: Vec<String>,
}

impl TlsSettings {
    /// Whether there will be a certificate.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        self.cert.is_some() || self.key.is_some() || self.auto.is_some()
    }

    /// Whether those who connect must show a certificate.
    #[must_use]
    pub fn wants_certificates(&self) -> bool {
        self.cert_auth || self.trusted_ca.is_some()
    }
}

/// Names of Go's cipher suites that rustls offers. Those of TLS 1.3 are always offered, as in Go.
pub const OFFERED_SUITES: &[&str] = &[
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// Names that etcd accepts and rustls has no suite for, because they are weak.
pub const WEAK_SUITES: &[&str] = &[
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];
