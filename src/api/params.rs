//! Query strings and forms, decoded as Go decodes them (`url.ParseQuery`, `Request.ParseForm`, `mime.ParseMediaType`).
//!
//! Owns: percent and plus decoding, the order of sources (body before query, first value wins), and the texts of
//! malformed input. Which names mean something is `keys.rs`'s business.
//!
//! Always holds: any bytes are accepted or refused, never a panic; nothing is allocated when nothing needs decoding.

use super::error::{ApiError, ErrorCode};
use super::scan::plain_prefix;

/// The largest form that is read, as in Go.
pub const FORM_BYTES_MAX: usize = 10 << 20;

/// The type of a body that counts as a form.
const FORM_TYPE: &[u8] = b"application/x-www-form-urlencoded";

/// A text that is either a piece of the input or was decoded into the shared buffer.
#[derive(Clone, Copy)]
pub(super) enum Piece<'a> {
    Input(&'a [u8]),
    Decoded { from: usize, to: usize },
}

impl<'a> Piece<'a> {
    pub(super) fn text(self, decoded: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Input(text) => text,
            Self::Decoded { from, to } => &decoded[from..to],
        }
    }
}

/// Walks the pairs of a query or form. `pair` gets each decoded name and its value; the name is only valid during the
/// call. Malformed pairs are skipped and the error, in Go's words, is returned at the end: Go reports the first bad
/// escape, unless a semicolon follows.
pub(super) fn walk_pairs<'a>(
    text: &'a [u8],
    decoded: &mut Vec<u8>,
    mut pair: impl FnMut(&[u8], Piece<'a>),
) -> Result<(), Vec<u8>> {
    let mut failure = None;
    if text.is_empty() {
        return Ok(());
    }
    let mut rest = Some(text);
    while let Some(text) = rest {
        let end = plain_prefix(text, |byte| byte == b'&');
        let part = &text[..end];
        rest = text.get(end + 1..);
        if plain_prefix(part, |byte| byte == b';') < part.len() {
            failure = Some(b"invalid semicolon separator in query".to_vec());
            continue;
        }
        if part.is_empty() {
            continue;
        }
        let cut = part.iter().position(|&byte| byte == b'=').unwrap_or(part.len());
        let (name, value) = (&part[..cut], part.get(cut + 1..).unwrap_or_default());
        let start = decoded.len();
        let result = decode_piece(name, decoded).and_then(|name| Ok((name, decode_piece(value, decoded)?)));
        match result {
            Ok((name, value)) => pair(name.text(decoded), value),
            Err(bad) => {
                decoded.truncate(start);
                failure.get_or_insert_with(|| escape_error(bad));
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Decodes `%XX` and `+`. `Err` is the input from the bad escape on.
fn decode_piece<'a>(text: &'a [u8], decoded: &mut Vec<u8>) -> Result<Piece<'a>, &'a [u8]> {
    if plain_prefix(text, |byte| (byte == b'%') | (byte == b'+')) == text.len() {
        return Ok(Piece::Input(text));
    }
    let from = decoded.len();
    decode_percent(text, true, decoded)?;
    Ok(Piece::Decoded { from, to: decoded.len() })
}

/// Appends `text` with its escapes decoded, and with `plus_is_space` also its plus signs.
///
/// # Errors
/// The rest of `text` from the first bad escape on.
pub(super) fn decode_percent<'a>(text: &'a [u8], plus_is_space: bool, out: &mut Vec<u8>) -> Result<(), &'a [u8]> {
    let mut rest = text;
    loop {
        let run = plain_prefix(rest, |byte| (byte == b'%') | ((byte == b'+') & plus_is_space));
        out.extend_from_slice(&rest[..run]);
        rest = &rest[run..];
        if rest.is_empty() {
            return Ok(());
        }
        if rest[0] == b'+' {
            out.push(b' ');
            rest = &rest[1..];
            continue;
        }
        match (rest.get(1).copied().and_then(hex_digit), rest.get(2).copied().and_then(hex_digit)) {
            (Some(high), Some(low)) => out.push(high << 4 | low),
            _ => return Err(rest),
        }
        rest = &rest[3..];
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|digit| digit as u8)
}

/// Go's words for a bad escape: at most three bytes of it, quoted as Go quotes strings.
fn escape_error(bad: &[u8]) -> Vec<u8> {
    let mut words = b"invalid URL escape \"".to_vec();
    for chunk in bad[..bad.len().min(3)].utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => words.extend_from_slice(&[b'\\', character as u8]),
                '\x07' => words.extend_from_slice(b"\\a"),
                '\x08' => words.extend_from_slice(b"\\b"),
                '\x0c' => words.extend_from_slice(b"\\f"),
                '\n' => words.extend_from_slice(b"\\n"),
                '\r' => words.extend_from_slice(b"\\r"),
                '\t' => words.extend_from_slice(b"\\t"),
                '\x0b' => words.extend_from_slice(b"\\v"),
                '\0'..='\x1f' | '\x7f' => words.extend_from_slice(format!("\\x{:02x}", character as u32).as_bytes()),
                // Within two bytes of UTF-8 these are what Go does not count as printable, unassigned ones aside.
                '\u{80}'..='\u{a0}' | '\u{ad}' => {
                    words.extend_from_slice(format!("\\u{:04x}", character as u32).as_bytes());
                }
                _ => words.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for byte in chunk.invalid() {
            words.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
    words.push(b'"');
    words
}

/// Whether a body of this type is a form.
///
/// # Errors
/// [`ErrorCode::InvalidForm`] for a malformed type, in Go's words.
pub fn is_form(content_type: Option<&[u8]>) -> Result<bool, ApiError> {
    match content_type {
        None | Some(b"") => Ok(false),
        Some(text) if text == FORM_TYPE => Ok(true),
        Some(text) => is_form_media_type(text).map_err(|words| ApiError::request(ErrorCode::InvalidForm, words)),
    }
}

#[cold]
fn is_form_media_type(text: &[u8]) -> Result<bool, &'static str> {
    let cut = text.iter().position(|&byte| byte == b';').unwrap_or(text.len());
    let base = text[..cut].trim_ascii().to_ascii_lowercase();
    let (kind, rest) = take_token(&base);
    if kind.is_empty() {
        return Err("mime: no media type");
    }
    if !rest.is_empty() {
        let Some(rest) = rest.strip_prefix(b"/") else {
            return Err("mime: expected slash after first token");
        };
        let (subtype, rest) = take_token(rest);
        if subtype.is_empty() {
            return Err("mime: expected token after slash");
        }
        if !rest.is_empty() {
            return Err("mime: unexpected content after media subtype");
        }
    }
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut rest = text[cut..].trim_ascii_start();
    while !rest.is_empty() {
        let Some((name, after)) = take_parameter(rest) else {
            if rest.trim_ascii() == b";" {
                break;
            }
            return Err("mime: invalid media parameter");
        };
        if seen.contains(&name) {
            return Err("mime: duplicate parameter name");
        }
        seen.push(name);
        rest = after.trim_ascii_start();
    }
    Ok(base == FORM_TYPE)
}

/// Takes one `; name=value`: the name in lower case, and the rest.
fn take_parameter(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let rest = text.strip_prefix(b";")?.trim_ascii_start();
    let (name, rest) = take_token(rest);
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    let after = match rest.strip_prefix(b"\"") {
        Some(quoted) => skip_quoted(quoted)?,
        None => {
            let (value, after) = take_token(rest);
            if value.is_empty() {
                return None;
            }
            after
        }
    };
    Some((name.to_ascii_lowercase(), after))
}

/// What follows the closing quote.
fn skip_quoted(text: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    loop {
        match *text.get(at)? {
            b'"' => return Some(&text[at + 1..]),
            b'\r' | b'\n' => return None,
            b'\\' if text.get(at + 1).copied().is_some_and(is_special) => at += 2,
            _ => at += 1,
        }
    }
}

fn take_token(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&byte| !byte.is_ascii_graphic() || is_special(byte)).unwrap_or(text.len());
    text.split_at(end)
}

/// The characters RFC 2045 keeps out of tokens.
fn is_special(byte: u8) -> bool {
    b"()<>@,;:\\\"/[]?=".contains(&byte)
}

/// A bool as Go's `strconv.ParseBool` reads it.
pub(super) fn parse_bool(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"t" | b"T" | b"TRUE" | b"true" | b"True" => Some(true),
        b"0" | b"f" | b"F" | b"FALSE" | b"false" | b"False" => Some(false),
        _ => None,
    }
}

/// A decimal number as Go's `strconv.ParseUint` reads it: digits only, and it must fit.
pub(super) fn parse_u64(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, &byte| {
        let digit = (byte as char).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
        let mut decoded = Vec::new();
        let mut found = Vec::new();
        walk_pairs(text.as_bytes(), &mut decoded, |name, value| found.push((name.to_vec(), value)))
            .map_err(|words| String::from_utf8(words).unwrap())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(found.into_iter().map(|(name, value)| (text(&name), text(value.text(&decoded)))).collect())
    }

    #[test]
    fn pairs_are_split_and_decoded() {
        let found = pairs("a=1&&b&c=&%61=x%20y+z&=n&d=e=f").unwrap();
        let expected = [("a", "1"), ("b", ""), ("c", ""), ("a", "x y z"), ("", "n"), ("d", "e=f")]
            .map(|(a, b)| (a.into(), b.into()));
        assert_eq!(found, expected);
    }

    #[test]
    fn malformed_pairs_are_reported_in_gos_words() {
        assert_eq!(pairs("a=%zz").unwrap_err(), "invalid URL escape \"%zz\"");
        assert_eq!(pairs("a=%z").unwrap_err(), "invalid URL escape \"%z\"");
        assert_eq!(pairs("%=1").unwrap_err(), "invalid URL escape \"%\"");
        assert_eq!(pairs("a=%2\"").unwrap_err(), "invalid URL escape \"%2\\\"\"");
        assert_eq!(pairs("a=1;b=2").unwrap_err(), "invalid semicolon separator in query");
        assert_eq!(pairs("a=%q&a=%zz&b;").unwrap_err(), "invalid semicolon separator in query");
        assert_eq!(pairs("b;&a=%q").unwrap_err(), "invalid semicolon separator in query");
    }

    #[test]
    fn content_types_are_told_apart() {
        let form = |text: &str| is_form(Some(text.as_bytes())).map_err(|error| String::from_utf8(error.cause).unwrap());
        for yes in [
            "application/x-www-form-urlencoded",
            "APPLICATION/X-WWW-FORM-URLENCODED",
            " application/x-www-form-urlencoded ; charset=UTF-8 ;",
            "application/x-www-form-urlencoded; a=\"q;\\\"\"",
        ] {
            assert_eq!(form(yes), Ok(true), "{yes}");
        }
        for no in ["", "text/plain", "form", "multipart/form-data; boundary=B"] {
            assert_eq!(form(no), Ok(false), "{no}");
        }
        for (bad, words) in [
            (";;;", "mime: no media type"),
            ("/x", "mime: no media type"),
            ("a b", "mime: expected slash after first token"),
            ("a/", "mime: expected token after slash"),
            ("a/b c", "mime: unexpected content after media subtype"),
            ("a/b; c", "mime: invalid media parameter"),
            ("a/b; c=", "mime: invalid media parameter"),
            ("a/b; c=\"d", "mime: invalid media parameter"),
            ("a/b; c=1; C=1", "mime: duplicate parameter name"),
        ] {
            assert_eq!(form(bad), Err(words.to_owned()), "{bad}");
        }
    }

    #[test]
    fn numbers_and_bools_are_strict() {
        assert_eq!(parse_u64(b"018446744073709551615"), Some(u64::MAX));
        for bad in ["", "-1", "+1", "1.5", "1_0", "18446744073709551616", "x", "１"] {
            assert_eq!(parse_u64(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!([b"t".as_slice(), b"0", b"yes", b""].map(parse_bool), [Some(true), Some(false), None, None]);
    }
}
