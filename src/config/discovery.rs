//! `--discovery URL`: where the members of a new cluster meet.
//!
//! Owns: which URLs and which combinations of flags are accepted. May touch: text only.
//!
//! Must always hold: the URL as written is the cluster's token, as in etcd.

use super::url::Url;

/// A discovery URL, in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// As written: the token of the cluster.
    pub text: String,
    /// Where the service is.
    pub service: Url,
    /// The directory, `/v2/keys/...`, without a slash at its end.
    pub path: String,
    /// Through which HTTP proxy it is asked.
    pub proxy: Option<Url>,
    /// A member that is one too many exits instead of being a proxy.
    pub exits_when_full: bool,
}

impl Discovery {
    /// Reads the flags' values; `None` without a URL.
    ///
    /// # Errors
    /// What is wrong with a URL.
    pub fn parse(text: &str, proxy: &str, fallback: &str) -> Result<Option<Self>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let (place, path) = split(text)?;
        let proxy = if proxy.is_empty() { None } else { Some(split(proxy)?.0) };
        Ok(Some(Self { text: text.to_owned(), service: place, path, proxy, exits_when_full: fallback == "exit" }))
    }
}

/// `http://host[:port][/path]` as a place and a path.
fn split(text: &str) -> Result<(Url, String), String> {
    let rest = text.strip_prefix("http://").ok_or_else(|| match text.starts_with("https://") {
        true => format!("{text}: TLS is not supported yet; use a discovery service over http"),
        false => format!("{text}: a discovery URL begins with http://"),
    })?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let place = Url::parse(&format!("http://{authority}"))?;
    if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(format!("{text}: blanks in a discovery URL"));
    }
    Ok((place, path.trim_end_matches('/').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split() {
        let read = |text| {
            Discovery::parse(text, "", "proxy").map(|found| found.map(|found| (found.service.to_string(), found.path)))
        };
        let is = |place: &str, path: &str| Ok(Some((place.to_owned(), path.to_owned())));
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("http://h:2379/v2/keys/discovery/t/"), is("http://h:2379", "/v2/keys/discovery/t"));
        assert_eq!(read("http://h/t"), is("http://h:80", "/t"));
        assert_eq!(read("http://[::1]:1/t"), is("http://[::1]:1", "/t"));
        assert!(read("https://h/t").unwrap_err().contains("TLS is not supported yet"));
        assert!(read("h/t").is_err() && read("http://h/a b").is_err());
    }
}
