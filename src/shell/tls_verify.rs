//! Which certificates are believed: rustls' judgement, and etcd's rules on top.
//!
//! Owns: the rules beyond chains and dates: common name, host name, revocation. Touches: nothing; it runs on the thread
//! for handshakes. Must hold: a rule is asked only after the chain was verified, and can only refuse.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::wire::certificate::{Refusal, common_name, hosts, is_for, serial};

/// What a certificate of a believed authority must fulfil besides.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Its common name.
    pub allowed_cn: Option<String>,
    /// A host it must be for.
    pub allowed_hostname: Option<String>,
    /// Serial numbers that are refused, sorted; also of the authorities between.
    pub revoked: Vec<Vec<u8>>,
}

impl Rules {
    fn check(&self, own: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
        let refuse = |why: String| Err(Refusal::of(own, why));
        let fits = self.allowed_cn.as_ref().is_none_or(|wanted| common_name(own).as_ref() == Some(wanted))
            && self.allowed_hostname.as_ref().is_none_or(|wanted| is_for(own, wanted));
        if !fits {
            return refuse("client certificate authentication failed".to_owned());
        }
        if self.revoked.is_empty() {
            return Ok(());
        }
        for certificate in std::iter::once(own).chain(intermediates) {
            let serial = serial(certificate).unwrap_or_default();
            if self.revoked.binary_search(&serial).is_ok() {
                let digits: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
                return refuse(format!("transport: certificate serial {digits} revoked"));
            }
        }
        Ok(())
    }
}

/// What rustls' verifier says (chains, dates, purpose, names), and then the rules.
#[derive(Debug)]
pub struct Guard<V: ?Sized> {
    /// rustls' verifier.
    pub inner: Arc<V>,
    /// The rest; `None` when any certificate will do, as with `--peer-auto-tls`.
    pub rules: Option<Rules>,
}

impl<V: ?Sized> Guard<V> {
    fn check(&self, own: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
        self.rules.as_ref().map_or(Ok(()), |rules| rules.check(own, intermediates))
    }
}

/// What both of rustls' traits ask for and rustls' verifier knows.
macro_rules! as_inner {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner.verify_tls12_signature(message, cert, dss)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner.verify_tls13_signature(message, cert, dss)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.inner.supported_verify_schemes()
        }
    };
}

/// Judges those who connect.
impl ClientCertVerifier for Guard<dyn ClientCertVerifier> {
    as_inner!();

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        self.check(end_entity, intermediates)?;
        Ok(verified)
    }
}

/// Judges members that are dialled.
impl ServerCertVerifier for Guard<dyn ServerCertVerifier> {
    as_inner!();

    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.rules.is_none() {
            return Ok(ServerCertVerified::assertion());
        }
        let verified = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let verified = verified.map_err(|error| match error {
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => Refusal::of(end_entity, hosts(end_entity).not_for(&server_name.to_str())),
            other => other,
        })?;
        self.check(end_entity, intermediates)?;
        Ok(verified)
    }
}
