//! A certificate authority of the test's own.
//!
//! Must hold: files lie in a directory that is removed with the test.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a certificate says.
pub struct Wanted<'a> {
    pub cn: &'a str,
    pub hosts: &'a [&'a str],
    pub serial: u64,
    pub expired: bool,
    /// Servers only, says the certificate.
    pub server_only: bool,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        Self { cn: "ringd", hosts: &["127.0.0.1"], serial: 1, expired: false, server_only: false }
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA"))
    }

    /// Writes the authority's own certificate.
    pub fn publish(&self, path: &Path) {
        std::fs::write(path, self.0.pem()).expect("a scratch file");
    }

    /// Writes `STEM.crt` and `STEM.key`, for both sides of a connection.
    pub fn issue(&self, stem: &Path, wanted: &Wanted<'_>) {
        let key = KeyPair::generate().expect("a key");
        let hosts: Vec<String> = wanted.hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("host names");
        params.distinguished_name.push(DnType::CommonName, wanted.cn);
        params.serial_number = Some(SerialNumber::from(wanted.serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if !wanted.server_only {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        if wanted.expired {
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        // First under other names: who looks at the files sees whole ones.
        for (ending, text) in [("key", key.serialize_pem()), ("crt", certificate.pem())] {
            let path = stem.with_extension(ending);
            let beside = stem.with_extension(format!("{ending}.new"));
            std::fs::write(&beside, text).expect("a scratch file");
            std::fs::rename(&beside, &path).expect("a scratch file");
        }
    }

    /// Writes a list of revoked serial numbers.
    pub fn revoke(&self, path: &Path, serials: &[u64]) {
        let revoked = serials.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.0).expect("signed");
        std::fs::write(path, list.pem().expect("PEM")).expect("a scratch file");
    }
}

/// The files of a test: good and bad certificates.
pub struct Files {
    dir: tempfile::TempDir,
    pub ours: Authority,
}

impl Files {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let (ours, other) = (Authority::new("ours"), Authority::new("other"));
        let files = Self { dir, ours };
        files.ours.publish(&files.path("ca.crt"));
        other.publish(&files.path("other-ca.crt"));
        files.ours.issue(&files.path("good"), &Wanted::default());
        files.ours.issue(&files.path("expired"), &Wanted { expired: true, serial: 2, ..Wanted::default() });
        files.ours.issue(&files.path("revoked"), &Wanted { serial: 3, ..Wanted::default() });
        files.ours.issue(&files.path("other-name"), &Wanted { cn: "other", serial: 4, ..Wanted::default() });
        files.ours.issue(&files.path("elsewhere"), &Wanted { hosts: &["10.9.9.9"], serial: 5, ..Wanted::default() });
        other.issue(&files.path("foreign"), &Wanted { serial: 6, ..Wanted::default() });
        files.ours.issue(&files.path("named"), &Wanted { hosts: &["node.example"], serial: 7, ..Wanted::default() });
        files.ours.issue(&files.path("server-only"), &Wanted { server_only: true, serial: 8, ..Wanted::default() });
        files.ours.revoke(&files.path("crl.pem"), &[3]);
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}
