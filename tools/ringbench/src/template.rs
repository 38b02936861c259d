//! Requests built once and patched per key.
//!
//! Owns: the bytes of one request. Touches: nothing. Always: the key part has a fixed width, so a request for another
//! key differs in its digits only and no request is ever formatted on the hot path.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::rng::Rng;

/// Digits of a key name: enough for the largest key space.
const DIGITS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Get,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Put => "put",
            Kind::Get => "get",
        }
    }
}

/// What the requests of a run have in common.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    pub kind: Kind,
    /// `Host`.
    pub host: &'a str,
    /// `NAME:PASSWORD`, sent with HTTP Basic.
    pub user: Option<&'a str>,
    /// The directory of the keys.
    pub prefix: &'a str,
    /// How many keys.
    pub keys: usize,
    /// Letters of a value, chosen by `seed`.
    pub value_size: usize,
    pub seed: u64,
}

#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    /// Where the digits of the key begin.
    key_at: usize,
    keys: usize,
}

impl Template {
    /// A request for keys `PREFIX/k00000000` and on; PUT carries a value.
    pub fn new(shape: &Shape<'_>) -> Template {
        let Shape { kind, host, user, prefix, keys, value_size, seed } = *shape;
        assert!((1..=10usize.pow(DIGITS as u32)).contains(&keys), "the command line limits the key space");
        let method = if kind == Kind::Put { "PUT" } else { "GET" };
        let mut bytes = format!("{method} /v2/keys{prefix}/k").into_bytes();
        let key_at = bytes.len();
        bytes.resize(key_at + DIGITS, b'0');
        bytes.extend_from_slice(format!(" HTTP/1.1\r\nHost: {host}\r\n").as_bytes());
        if let Some(user) = user {
            bytes.extend_from_slice(format!("Authorization: Basic {}\r\n", STANDARD.encode(user)).as_bytes());
        }
        if kind == Kind::Put {
            let mut rng = Rng::new(seed);
            let value: String = (0..value_size).map(|_| char::from(b'a' + rng.below(26) as u8)).collect();
            let body = format!("value={value}");
            let form = "Content-Type: application/x-www-form-urlencoded";
            bytes.extend_from_slice(format!("{form}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        } else {
            bytes.extend_from_slice(b"\r\n");
        }
        Template { bytes, key_at, keys }
    }

    pub fn keys(&self) -> usize {
        self.keys
    }

    /// The request for key number `key`.
    pub fn request(&mut self, key: usize) -> &[u8] {
        let mut rest = key;
        for digit in self.bytes[self.key_at..self.key_at + DIGITS].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape<'_> =
        Shape { kind: Kind::Get, host: "h:1", user: None, prefix: "/p", keys: 100, value_size: 5, seed: 1 };

    #[test]
    fn a_user_is_sent_with_every_request() {
        let mut get = Template::new(&Shape { user: Some("root:pw"), ..SHAPE });
        let text = String::from_utf8(get.request(1).to_vec()).expect("ASCII");
        assert!(text.ends_with("\r\nAuthorization: Basic cm9vdDpwdw==\r\n\r\n"), "{text}");
    }

    #[test]
    fn requests_differ_in_the_key_only() {
        let mut get = Template::new(&SHAPE);
        assert_eq!(get.request(42), b"GET /v2/keys/p/k00000042 HTTP/1.1\r\nHost: h:1\r\n\r\n");
        assert_eq!(get.request(7), b"GET /v2/keys/p/k00000007 HTTP/1.1\r\nHost: h:1\r\n\r\n");
    }

    #[test]
    fn a_put_carries_a_value_of_the_size_asked_for() {
        let mut put = Template::new(&Shape { kind: Kind::Put, ..SHAPE });
        let text = String::from_utf8(put.request(0).to_vec()).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
        assert!(head.contains("Content-Length: 11"));
        assert_eq!(body.len(), 11);
    }
}
