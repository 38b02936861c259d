//! Paths, forms and credentials as they go over the wire.
//!
//! Owns: percent encoding. Touches: nothing. Always: what is encoded here decodes to the same bytes on the server.

/// `key` without empty, `.` and `..` parts, with one leading slash; a trailing slash stays.
pub fn clean_key(key: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in key.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    let mut clean = String::with_capacity(key.len() + 1);
    for part in &parts {
        clean.push('/');
        clean.push_str(part);
    }
    if clean.is_empty() || key.ends_with('/') {
        clean.push('/');
    }
    clean
}

fn escape(text: &str, out: &mut String, plain: &[u8], plus_for_space: bool) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' if plus_for_space => out.push('+'),
            other if plain.contains(&other) => out.push(char::from(other)),
            other => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(char::from(HEX[usize::from(other >> 4)]));
                out.push(char::from(HEX[usize::from(other & 15)]));
            }
        }
    }
}

/// A path with everything escaped that is not part of a path.
pub fn escape_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    escape(path, &mut out, b"$&+,/:;=@", false);
    out
}

/// `name=value&...`, in the order given.
pub fn encode_form(pairs: &[(&str, String)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        escape(name, &mut out, b"", true);
        out.push('=');
        escape(value, &mut out, b"", true);
    }
    out
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().enumerate().fold(0u32, |word, (i, b)| word | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_cleaned_as_the_server_would() {
        for (key, clean) in [
            ("", "/"),
            ("/", "/"),
            ("a", "/a"),
            ("//a//b", "/a/b"),
            ("/a/", "/a/"),
            ("/a/../b/./c", "/b/c"),
            ("..", "/"),
        ] {
            assert_eq!(clean_key(key), clean, "{key:?}");
        }
    }

    #[test]
    fn escapes() {
        assert_eq!(escape_path("/a b/é?#%2"), "/a%20b/%C3%A9%3F%23%252");
        assert_eq!(encode_form(&[("ttl", "6".into()), ("value", "a b&c".into())]), "ttl=6&value=a+b%26c");
    }

    #[test]
    fn base64_of_the_standard() {
        for (text, code) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(text.as_bytes()), code);
        }
    }
}
