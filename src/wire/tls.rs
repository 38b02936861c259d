//! TLS as a function over bytes: what arrives goes in, plaintext and what must be sent come out.
//!
//! Owns: one connection's TLS state with rustls, and etcd's words for what goes wrong in it. May touch: byte slices; no
//! socket, no file, no clock of its own.
//!
//! Must always hold:
//! - Bytes are taken in the order they arrived; none is lost when more plaintext waits than may be held.
//! - What waits is bounded: [`PLAIN_HIGH_BYTES`] plus one record of plaintext, one piece of undigested input, and the
//!   records of one [`Session::write`].
//! - Foreign bytes lead to an `Err`, and the alert that belongs to it is among what must be sent.

use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Connection, Error, InvalidMessage,
    PeerIncompatible, ServerConfig, ServerConnection,
};

use super::certificate::rfc3339;

/// No more input is digested while this much plaintext waits: rustls holds 16 KiB before it refuses more.
const PLAIN_HIGH_BYTES: usize = 8 << 10;
/// A buffer that grew beyond this is given back when it is empty.
const KEEP_BYTES: usize = 4 << 10;
/// The first byte of every TLS connection: a handshake record.
const HANDSHAKE_RECORD: u8 = 22;

/// What plain HTTP on a TLS port is answered, as Go's server does.
pub const PLAIN_HTTP: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Whether a connection that begins with these bytes wants TLS. `None` for no bytes.
#[must_use]
pub fn begins_handshake(bytes: &[u8]) -> Option<bool> {
    bytes.first().map(|&byte| byte == HANDSHAKE_RECORD)
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// So many bytes of plaintext.
    Bytes(usize),
    /// Nothing until more arrives.
    NeedMore,
    /// The other side said that nothing more comes.
    End,
}

/// One connection's TLS.
pub struct Session {
    tls: Connection,
    /// Arrived, but plaintext must be taken before it can be digested.
    undigested: Vec<u8>,
    outgoing: Vec<u8>,
    /// Of `outgoing`, bytes that were sent.
    sent: usize,
}

impl Session {
    /// The side that accepted.
    ///
    /// # Errors
    /// When the settings do not fit each other.
    pub fn accept(config: Arc<ServerConfig>) -> Result<Self, Error> {
        ServerConnection::new(config).map(|tls| Self::new(tls.into()))
    }

    /// The side that dialled `host`, a name or an address.
    ///
    /// # Errors
    /// When `host` is neither, or the settings do not fit each other.
    pub fn dial(config: Arc<ClientConfig>, host: &str) -> Result<Self, Error> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::General(format!("{host:?} is no host")))?;
        ClientConnection::new(config, name).map(|tls| Self::new(tls.into()))
    }

    fn new(tls: Connection) -> Self {
        Self { tls, undigested: Vec::new(), outgoing: Vec::new(), sent: 0 }
    }

    /// Whether the handshake still needs bytes of the other side.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Takes what arrived. Between two calls all plaintext should be read: see [`Session::read`].
    ///
    /// # Errors
    /// What is wrong with it; the connection is over when the outgoing bytes are sent.
    pub fn digest(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut rest = bytes;
        while self.undigested.is_empty() && !rest.is_empty() {
            let taken = self.tls.read_tls(&mut rest).map_err(|error| Error::General(error.to_string()))?;
            let state = self.tls.process_new_packets()?;
            if taken == 0 || state.plaintext_bytes_to_read() >= PLAIN_HIGH_BYTES {
                break;
            }
        }
        self.undigested.extend_from_slice(rest);
        Ok(())
    }

    /// Reads plaintext.
    ///
    /// # Errors
    /// As [`Session::digest`], of bytes it had put aside.
    pub fn read(&mut self, into: &mut [u8]) -> Result<Taken, Error> {
        loop {
            match self.tls.reader().read(into) {
                Ok(0) => return Ok(Taken::End),
                Ok(bytes) => return Ok(Taken::Bytes(bytes)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(Error::General(error.to_string())),
            }
            if self.undigested.is_empty() {
                return Ok(Taken::NeedMore);
            }
            let bytes = std::mem::take(&mut self.undigested);
            self.digest(&bytes)?;
        }
    }

    /// Encrypts as much of `plain` as one round may hold; how much that was.
    pub fn write(&mut self, plain: &[u8]) -> usize {
        self.tls.writer().write(plain).expect("writing into memory cannot fail")
    }

    /// Says that nothing more comes from here.
    pub fn close(&mut self) {
        self.tls.send_close_notify();
    }

    /// What must be sent, oldest first. See [`Session::sent`].
    pub fn outgoing(&mut self) -> &[u8] {
        if self.sent == self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
            if !self.tls.wants_write() && self.outgoing.capacity() > KEEP_BYTES {
                self.outgoing = Vec::new();
            }
        }
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.outgoing).expect("writing into memory cannot fail");
        }
        &self.outgoing[self.sent..]
    }

    /// The first `bytes` of [`Session::outgoing`] were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        assert!(self.sent <= self.outgoing.len(), "more was sent than there was");
    }

    /// The certificates the other side showed, its own first; empty for none.
    #[must_use]
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.tls.peer_certificates().unwrap_or_default()
    }

    /// The name that the client asked for, empty for none.
    #[must_use]
    pub fn server_name(&self) -> &str {
        match &self.tls {
            Connection::Server(server) => server.server_name().unwrap_or_default(),
            Connection::Client(_) => "",
        }
    }
}

/// What went wrong, as etcd's log says it: Go's words as far as Go has them. `serves` is for the side that accepted.
#[must_use]
pub fn words(error: &Error, serves: bool) -> String {
    match error {
        Error::AlertReceived(alert) => alert_words(*alert),
        Error::NoCertificatesPresented => "tls: client didn't provide a certificate".to_owned(),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        Error::PeerIncompatible(
            PeerIncompatible::NoCipherSuitesInCommon
            | PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NamedGroupsExtensionRequired,
        ) => "tls: no cipher suite supported by both client and server".to_owned(),
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
        ) => "tls: client offered only unsupported versions".to_owned(),
        Error::InvalidCertificate(CertificateError::Other(ours)) => ours.to_string(),
        Error::InvalidCertificate(reason) => {
            let reason = certificate_words(reason);
            if serves { format!("tls: failed to verify client certificate: {reason}") } else { reason }
        }
        other => format!("tls: {other}"),
    }
}

fn certificate_words(reason: &CertificateError) -> String {
    const OUT_OF_DATE: &str = "x509: certificate has expired or is not yet valid";
    match reason {
        CertificateError::UnknownIssuer => "x509: certificate signed by unknown authority".to_owned(),
        CertificateError::Expired | CertificateError::NotValidYet => OUT_OF_DATE.to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            let (now, end) = (rfc3339(time.as_secs()), rfc3339(not_after.as_secs()));
            format!("{OUT_OF_DATE}: current time {now} is after {end}")
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let (now, begin) = (rfc3339(time.as_secs()), rfc3339(not_before.as_secs()));
            format!("{OUT_OF_DATE}: current time {now} is before {begin}")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "x509: certificate specifies an incompatible key usage".to_owned()
        }
        other => format!("x509: {other}"),
    }
}

/// Go's words for an alert. rustls and OpenSSL say more precisely what is wrong with a certificate than Go's own server
/// and client do: all of it is `bad certificate` here, which is what is searched for in logs.
fn alert_words(alert: AlertDescription) -> String {
    let what = match alert {
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRequired
        | AlertDescription::UnknownCA => "bad certificate",
        AlertDescription::HandshakeFailure => "handshake failure",
        AlertDescription::ProtocolVersion => "protocol version not supported",
        AlertDescription::AccessDenied => "access denied",
        other => return format!("remote error: tls: {other:?}"),
    };
    format!("remote error: tls: {what}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::UnixTime;

    use super::*;

    #[test]
    fn errors_are_told_in_gos_words() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expired = CertificateError::ExpiredContext { time: at(1_000_000_000), not_after: at(951_827_696) };
        let early = CertificateError::NotValidYetContext { time: at(951_827_696), not_before: at(1_000_000_000) };
        for (error, server, client) in [
            (
                Error::InvalidCertificate(expired),
                "tls: failed to verify client certificate: x509: certificate has expired or is not yet valid: current \
                 time 2001-09-09T01:46:40Z is after 2000-02-29T12:34:56Z",
                "x509: certificate has expired or is not yet valid: current time 2001-09-09T01:46:40Z is after \
                 2000-02-29T12:34:56Z",
            ),
            (
                Error::InvalidCertificate(early),
                "tls: failed to verify client certificate: x509: certificate has expired or is not yet valid: current \
                 time 2000-02-29T12:34:56Z is before 2001-09-09T01:46:40Z",
                "x509: certificate has expired or is not yet valid: current time 2000-02-29T12:34:56Z is before \
                 2001-09-09T01:46:40Z",
            ),
            (
                PeerIncompatible::NoCipherSuitesInCommon.into(),
                "tls: no cipher suite supported by both client and server",
                "tls: no cipher suite supported by both client and server",
            ),
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                "remote error: tls: bad certificate",
                "remote error: tls: bad certificate",
            ),
        ] {
            assert_eq!((words(&error, true).as_str(), words(&error, false).as_str()), (server, client));
        }
    }
}
