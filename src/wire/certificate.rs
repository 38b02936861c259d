//! What is read out of certificates and revocation lists beyond what TLS itself checks.
//!
//! Owns: names and serial numbers, and refusals because of them in Go's words. May touch: DER bytes of certificates whose
//! signatures were verified, or of files that the operator named. Must hold: foreign bytes that cannot be read are an
//! `Err` or nobody's name, never a panic.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, OtherError};
use x509_parser::prelude::{
    ASN1Time, CertificateRevocationList, FromDer as _, GeneralName, ParsedExtension, X509Certificate,
};

/// The subject's common name.
#[must_use]
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The first and the last second at which a certificate is valid, since 1970.
#[must_use]
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = |time: ASN1Time| u64::try_from(time.timestamp()).ok();
    Some((seconds(parsed.validity().not_before)?, seconds(parsed.validity().not_after)?))
}

/// Whether a certificate is one for `host`, a name or an address.
#[must_use]
pub fn is_for(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(name) = ServerName::try_from(host) else { return false };
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

/// The hosts a certificate is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Names.
    pub names: Vec<String>,
}

impl fmt::Display for Hosts {
    /// As etcd puts them behind a refusal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted =
            |list: &mut dyn Iterator<Item = String>| list.map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" ");
        let addresses = quoted(&mut self.addresses.iter().map(ToString::to_string));
        write!(f, "IPAddresses [{addresses}], DNSNames [{}]", quoted(&mut self.names.iter().cloned()))
    }
}

impl Hosts {
    /// Why a certificate for these is none for `host`, in Go's words.
    #[must_use]
    pub fn not_for(&self, host: &str) -> String {
        let is_address = host.parse::<IpAddr>().is_ok();
        let valid: Vec<_> =
            if is_address { self.addresses.iter().map(ToString::to_string).collect() } else { self.names.clone() };
        match (is_address, valid.is_empty()) {
            (true, true) => {
                format!("x509: cannot validate certificate for {host} because it doesn't contain any IP SANs")
            }
            (false, true) => format!("x509: certificate is not valid for any names, but wanted to match {host}"),
            (_, false) => format!("x509: certificate is valid for {}, not {host}", valid.join(", ")),
        }
    }
}

/// Why a certificate of a believed authority is refused, in etcd's words.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    why: String,
    /// Whom the certificate is for.
    pub hosts: Hosts,
}

impl Refusal {
    /// The error that refuses this certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>, why: String) -> Error {
        let refusal = Self { why, hosts: hosts(certificate) };
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }

    /// The refusal in an error, if it is one.
    #[must_use]
    pub fn within(error: &Error) -> Option<&Self> {
        match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => other.downcast_ref(),
            _ => None,
        }
    }
}

/// Seconds since 1970 as RFC 3339 has them, `?` for what no calendar knows.
#[must_use]
pub fn rfc3339(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
    time.map_or_else(
        || "?".to_owned(),
        |time| {
            let at = time.to_datetime();
            let (hour, minute, second) = at.to_hms();
            format!("{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", at.year(), u8::from(at.month()), at.day())
        },
    )
}

/// Reads the subject's alternative names.
#[must_use]
pub fn hosts(certificate: &CertificateDer<'_>) -> Hosts {
    let mut hosts = Hosts::default();
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return hosts };
    for extension in parsed.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => hosts.names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                    hosts.addresses.extend(four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)));
                }
                _ => {}
            }
        }
    }
    hosts
}

/// A certificate's serial number, big-endian without leading zeros.
#[must_use]
pub fn serial(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.serial.to_bytes_be())
}

/// The serial numbers on a revocation list, as [`serial`] gives them, sorted.
///
/// # Errors
/// Why the list cannot be read.
pub fn revoked_serials(list: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let (_, parsed) = CertificateRevocationList::from_der(list).map_err(|error| error.to_string())?;
    let mut serials: Vec<_> = parsed.iter_revoked_certificates().map(|one| one.serial().to_bytes_be()).collect();
    serials.sort();
    Ok(serials)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_worded_as_go_words_them() {
        let hosts = Hosts { addresses: vec!["10.9.9.9".parse().unwrap()], names: vec!["a".into(), "b".into()] };
        assert_eq!(hosts.to_string(), r#"IPAddresses ["10.9.9.9"], DNSNames ["a" "b"]"#);
        assert_eq!(hosts.not_for("127.0.0.1"), "x509: certificate is valid for 10.9.9.9, not 127.0.0.1");
        assert_eq!(hosts.not_for("c"), "x509: certificate is valid for a, b, not c");
        let nothing = Hosts::default();
        assert_eq!(nothing.to_string(), "IPAddresses [], DNSNames []");
        assert_eq!(
            nothing.not_for("::1"),
            "x509: cannot validate certificate for ::1 because it doesn't contain any IP SANs"
        );
        assert_eq!(rfc3339(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(rfc3339(u64::MAX), "?");
    }
}
