//! What is read out of certificates and revocation lists beyond what TLS itself checks.
//!
//! Owns: names and serial numbers. May touch: DER bytes of certificates whose signatures were verified, or of files that
//! the operator named. Must hold: foreign bytes that cannot be read are an `Err` or nobody's name, never a panic.

use std::net::IpAddr;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, GeneralName, ParsedExtension, X509Certificate};

/// The subject's common name.
#[must_use]
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// Whether a certificate is one for `host`, a name or an address.
#[must_use]
pub fn is_for(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(name) = ServerName::try_from(host) else { return false };
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

/// The hosts a certificate is for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Names.
    pub names: Vec<String>,
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
