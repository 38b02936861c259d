//! `/health`, `/livez` and `/readyz`: what a probe asks for, and how etcd 3.6 words the answer.
//!
//! Owns: the queries and the texts. Which checks there are, and what they find, comes in.
//!
//! Must always hold: any bytes are a query; what a query says that is not known is ignored.

/// The query of a probe, raw.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a>(pub &'a [u8]);

impl<'a> Query<'a> {
    /// Names and values; a name alone has an empty value.
    fn pairs(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.0.split(|&byte| byte == b'&').map(|pair| match pair.iter().position(|&byte| byte == b'=') {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &b""[..]),
        })
    }

    /// `exclude=NAME`: this check is no reason to fail.
    #[must_use]
    pub fn excludes(self, name: &str) -> bool {
        self.pairs().any(|pair| pair == (&b"exclude"[..], name.as_bytes()))
    }

    /// `serializable=true`: this member alone, no quorum.
    #[must_use]
    pub fn is_serializable(self) -> bool {
        self.pairs().any(|pair| pair == (&b"serializable"[..], &b"true"[..]))
    }

    /// `verbose`, whatever its value: the checks are listed also when all is well.
    #[must_use]
    pub fn is_verbose(self) -> bool {
        self.pairs().any(|(name, _)| name == b"verbose")
    }
}

/// What became of one check, by its name.
pub type Finding = (&'static str, Result<(), String>);

/// The status and the body of `/livez` and `/readyz`. Who fails is always told; who is well, when it was asked for.
#[must_use]
pub fn render(findings: &[Finding], verbose: bool) -> (u16, Vec<u8>) {
    let failed = findings.iter().any(|(_, found)| found.is_err());
    let mut body = String::new();
    if failed || verbose {
        for (name, found) in findings {
            match found {
                Ok(()) => body.push_str(&format!("[+]{name} ok\n")),
                Err(reason) => body.push_str(&format!("[-]{name} failed: {reason}\n")),
            }
        }
    }
    // A failure goes through Go's `http.Error`, which adds a line end.
    body.push_str(if failed { "\n" } else { "ok\n" });
    (if failed { 503 } else { 200 }, body.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_reads_its_query() {
        let query = Query(b"exclude=NOSPACE&a&serializable=true&verbose&exclude=x");
        assert!(query.excludes("NOSPACE") && query.excludes("x") && !query.excludes("NO"));
        assert!(query.is_serializable() && query.is_verbose());
        let other = Query(b"serializable=false&verbosely&exclude=&=&excluded=x&");
        assert!(!other.is_serializable() && !other.is_verbose() && !other.excludes("x"));
        assert!(!Query(b"").is_verbose());
        assert!(Query(b"verbose=").is_verbose());
    }

    #[test]
    fn answers_are_etcds() {
        let well: [Finding; 2] = [("a", Ok(())), ("b", Ok(()))];
        assert_eq!(render(&well, false), (200, b"ok\n".to_vec()));
        assert_eq!(render(&well, true), (200, b"[+]a ok\n[+]b ok\nok\n".to_vec()));
        assert_eq!(render(&[], true), (200, b"ok\n".to_vec()));
        let ill: [Finding; 2] = [("a", Ok(())), ("b", Err("why".to_owned()))];
        for verbose in [false, true] {
            assert_eq!(render(&ill, verbose), (503, b"[+]a ok\n[-]b failed: why\n\n".to_vec()));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_query(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            let query = Query(&bytes);
            let _ = (query.excludes("x"), query.is_serializable(), query.is_verbose());
        }
    }
}
