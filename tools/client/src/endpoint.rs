//! Where a server listens, and how the text that names it is read.
//!
//! Owns: the parsing of endpoint URLs. Touches: nothing. Always: `Display` gives the URL without a slash at the end; a
//! path in it goes before every path that is asked for.

use std::fmt;
use std::str::FromStr;

/// Port of a URL that names none.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// A text that is no endpoint; the message is the one of Go's URL parser, which scripts have met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parse {url:?}: {why}")]
pub struct BadEndpoint {
    pub url: String,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub scheme: String,
    pub host: String,
    pub port: u16,
    url: String,
    /// What comes before every path; empty or with a slash at its beginning only.
    base: String,
}

impl Endpoint {
    /// The path of the URL, to which the paths of requests are added.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `HOST:PORT`, with brackets around an IPv6 address.
    pub fn host_port(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The authority part as it was written, for the Host header.
    pub fn authority(&self) -> &str {
        self.url.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or(""))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    /// Accepts `scheme://host[:port][/path]`, and a bare host name without a port, which means `http://HOST`.
    fn from_str(text: &str) -> Result<Endpoint, BadEndpoint> {
        let bad = |url: &str, why: &str| BadEndpoint { url: url.to_owned(), why: why.to_owned() };
        let (scheme, rest, whole) = match text.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) => {
                (scheme.to_ascii_lowercase(), rest.to_owned(), text.to_owned())
            }
            Some(_) => return Err(bad(text, "first path segment in URL cannot contain colon")),
            None => match text.split('/').next().unwrap_or("").split_once(':') {
                // `localhost:2379` reads as a URL of the scheme `localhost`, which is refused when it is used.
                Some((scheme, _)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), String::new(), text.to_owned()),
                Some(_) => return Err(bad(text, "first path segment in URL cannot contain colon")),
                None => {
                    let mut escaped = String::new();
                    text.chars().for_each(|c| if c == ' ' { escaped.push_str("%20") } else { escaped.push(c) });
                    ("http".to_owned(), escaped.clone(), format!("http://{escaped}"))
                }
            },
        };
        let authority = rest.split('/').next().unwrap_or("");
        if let Some(at) = authority.find('%') {
            let end = (at + 3).min(authority.len());
            let escape = authority.get(at..end).unwrap_or("%");
            return Err(bad(&whole, &format!("invalid URL escape {escape:?}")));
        }
        if authority.contains(' ') {
            return Err(bad(&whole, "invalid character \" \" in host name"));
        }
        let default_port = if scheme == "https" { HTTPS_PORT } else { HTTP_PORT };
        let (host, port) = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None | Some("") => default_port,
            Some(port) => port.parse().map_err(|_| bad(&whole, &format!("invalid port \":{port}\" after host")))?,
        };
        let base = rest[authority.len()..].trim_end_matches('/');
        if base.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(bad(&whole, "invalid character in the path"));
        }
        let base = base.to_owned();
        let url = if authority.is_empty() { whole } else { format!("{scheme}://{authority}{base}") };
        Ok(Endpoint { host: host.to_owned(), port, url, base, scheme })
    }
}

fn is_scheme(text: &str) -> bool {
    let rest = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic) && text.bytes().all(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_endpoints() {
        for (text, url, host, port) in [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379", "127.0.0.1", 2379),
            ("http://h:1/", "http://h:1", "h", 1),
            ("https://h", "https://h", "h", 443),
            ("h", "http://h", "h", 80),
            ("http://[::1]:5", "http://[::1]:5", "::1", 5),
            ("http://h:1/a/b/", "http://h:1/a/b", "h", 1),
        ] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!((endpoint.to_string().as_str(), endpoint.host.as_str(), endpoint.port), (url, host, port));
        }
    }

    #[test]
    fn a_path_is_not_part_of_the_host() {
        let endpoint: Endpoint = "http://h:1/a/b/".parse().expect("valid");
        assert_eq!((endpoint.authority(), endpoint.base()), ("h:1", "/a/b"));
        assert!("http://h:1/a b".parse::<Endpoint>().is_err());
    }

    #[test]
    fn bad_endpoints_say_what_go_says() {
        for (text, message) in [
            ("127.0.0.1:2379", "parse \"127.0.0.1:2379\": first path segment in URL cannot contain colon"),
            ("bad url", "parse \"http://bad%20url\": invalid URL escape \"%20\""),
            ("http://h:x", "parse \"http://h:x\": invalid port \":x\" after host"),
        ] {
            assert_eq!(text.parse::<Endpoint>().map_err(|e| e.to_string()), Err(message.to_owned()));
        }
    }
}
