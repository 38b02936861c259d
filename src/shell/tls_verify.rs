//! Which certificates are believed: rustls' judgement, and etcd's rules on top.
//!
//! Owns: the rules beyond chains and dates: common name, host name, revocation. Touches: nothing; it runs on the thread
//! for handshakes. Must hold: a rule is asked only after the chain was verified, and can only refuse; a chain that is
//! known is believed no longer than each of its certificates is valid, and every rule is asked again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::wire::certificate::{Refusal, common_name, hosts, is_for, serial, validity};

/// Chains that are known at most; then all are forgotten. Certificates of one cluster's clients are few.
const KNOWN_MAX: usize = 256;
/// A chain of more bytes is verified every time: what is known takes 2 MiB at most.
const KNOWN_BYTES_MAX: usize = 8 << 10;

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

/// Asks a verifier of clients about each chain once. The authorities do not change while it lives, nor does what they
/// signed: of what was verified only the date moves on. Of a client that comes again one signature is left to verify: its own.
#[derive(Debug)]
pub struct Known {
    inner: Arc<dyn ClientCertVerifier>,
    /// From and until when each is valid.
    chains: Mutex<BTreeMap<Vec<u8>, (u64, u64)>>,
}

impl Known {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(inner: Arc<dyn ClientCertVerifier>) -> Self {
        Self { inner, chains: Mutex::default() }
    }

    /// A chain's bytes; nothing when they are too many.
    fn key(own: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Option<Vec<u8>> {
        let mut key = Vec::new();
        for certificate in std::iter::once(own).chain(intermediates) {
            key.extend_from_slice(&(certificate.len() as u64).to_le_bytes());
            key.extend_from_slice(certificate);
        }
        (key.len() <= KNOWN_BYTES_MAX).then_some(key)
    }

    fn is_valid(&self, key: &[u8], now: UnixTime) -> bool {
        let chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        chains.get(key).is_some_and(|(from, until)| (*from..=*until).contains(&now.as_secs()))
    }

    fn add(&self, key: Vec<u8>, own: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) {
        let (mut from, mut until) = (0, u64::MAX);
        for certificate in std::iter::once(own).chain(intermediates) {
            let Some((first, last)) = validity(certificate) else { return };
            (from, until) = (from.max(first), until.min(last));
        }
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.len() >= KNOWN_MAX {
            chains.clear();
        }
        chains.insert(key, (from, until));
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

impl ClientCertVerifier for Known {
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
        let key = Self::key(end_entity, intermediates);
        if key.as_ref().is_some_and(|key| self.is_valid(key, now)) {
            return Ok(ClientCertVerified::assertion());
        }
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        if let Some(key) = key {
            self.add(key, end_entity, intermediates);
        }
        Ok(verified)
    }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use rustls::server::WebPkiClientVerifier;

    use super::*;

    /// Believes certificates that begin like the one it has, and counts how often it is asked.
    #[derive(Debug)]
    struct Counting {
        inner: Arc<dyn ClientCertVerifier>,
        believed: CertificateDer<'static>,
        asked: AtomicUsize,
    }

    impl ClientCertVerifier for Counting {
        as_inner!();

        fn root_hint_subjects(&self) -> &[DistinguishedName] {
            &[]
        }

        fn verify_client_cert(
            &self,
            end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            now: UnixTime,
        ) -> Result<ClientCertVerified, Error> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let (_, until) = validity(&self.believed).expect("it can be read");
            match *end_entity == self.believed && now.as_secs() <= until {
                true => Ok(ClientCertVerified::assertion()),
                false => Err(CertificateError::UnknownIssuer.into()),
            }
        }
    }

    fn certificate(name: &str) -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        params.self_signed(&key).unwrap().der().clone()
    }

    fn counting(believed: CertificateDer<'static>) -> Arc<Counting> {
        Arc::new(Counting { inner: WebPkiClientVerifier::no_client_auth(), believed, asked: AtomicUsize::new(0) })
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn a_chain_is_verified_once_for_as_long_as_it_is_valid_and_rules_every_time() {
        let (good, other) = (certificate("good"), certificate("other"));
        let (from, until) = validity(&good).unwrap();
        let counting = counting(good.clone());
        let inner: Arc<dyn ClientCertVerifier> = Arc::new(Known::new(counting.clone()));
        let mut guard = Guard { inner, rules: Some(Rules::default()) };
        let asked = |guard: &Guard<dyn ClientCertVerifier>, own: &CertificateDer<'_>, now| {
            let before = counting.asked.load(Ordering::Relaxed);
            let believed = guard.verify_client_cert(own, &[], at(now)).is_ok();
            (believed, counting.asked.load(Ordering::Relaxed) - before)
        };
        assert_eq!(asked(&guard, &good, from), (true, 1));
        assert_eq!(asked(&guard, &good, until), (true, 0), "known");
        assert_eq!(asked(&guard, &good, until + 1), (false, 1), "too old");
        assert_eq!(asked(&guard, &good, from - 1).1, 1, "too young: verified again");
        for _ in 0..2 {
            assert_eq!(asked(&guard, &other, from), (false, 1), "what was refused is not known");
        }
        assert!(guard.verify_client_cert(&good, std::slice::from_ref(&other), at(from)).is_ok());
        assert_eq!(counting.asked.load(Ordering::Relaxed), 6, "another chain");

        guard.rules = Some(Rules { allowed_cn: Some("other".to_owned()), ..Rules::default() });
        assert_eq!(asked(&guard, &good, from), (false, 0), "known, and refused by a rule");
    }

    #[test]
    fn what_is_known_is_bounded() {
        let own = certificate("own");
        let known = Known::new(counting(own.clone()));
        for number in 0..KNOWN_MAX as u64 + 1 {
            known.add(number.to_le_bytes().to_vec(), &own, &[]);
        }
        assert_eq!(known.chains.lock().unwrap().len(), 1);
        let large = CertificateDer::from(vec![0; KNOWN_BYTES_MAX]);
        assert_eq!(Known::key(&own, &[large]), None);
    }
}
