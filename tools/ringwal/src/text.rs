//! Bytes and instants for people and for JSON, without loss.

use std::fmt::Write;

use ringd_storage::ids::UnixNanos;
use serde_json::{Map, Value};

/// Bytes as one word of text: printable UTF-8 as it is, `\xNN` for all else, in quotes with `quoted`.
pub fn escape(bytes: &[u8], quoted: bool) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    if quoted {
        out.push('"');
    }
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                '\\' => out.push_str("\\\\"),
                '"' if quoted => out.push_str("\\\""),
                ' ' if !quoted => out.push_str("\\x20"),
                c if c.is_control() => {
                    let mut buffer = [0; 4];
                    push_hex(&mut out, c.encode_utf8(&mut buffer).as_bytes());
                }
                c => out.push(c),
            }
        }
        push_hex(&mut out, chunk.invalid());
    }
    if quoted {
        out.push('"');
    }
    out
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(out, "\\x{byte:02x}").expect("a String takes everything");
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(out, "{byte:02x}").expect("a String takes everything");
    }
    out
}

/// Puts bytes into an object: as text, and when they are not UTF-8 also exactly, as `<name>_hex`.
pub fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    object.insert(name.to_owned(), String::from_utf8_lossy(bytes).into());
    if std::str::from_utf8(bytes).is_err() {
        object.insert(format!("{name}_hex"), hex(bytes).into());
    }
}

/// An instant as RFC 3339 in UTC, with as many decimals as it needs.
pub fn instant(at: UnixNanos) -> String {
    let (seconds, nanos) = (at.get() / 1_000_000_000, at.get() % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut out =
        format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
    if nanos > 0 {
        let decimals = format!(".{nanos:09}");
        out.push_str(decimals.trim_end_matches('0'));
    }
    out.push('Z');
    out
}

/// The Gregorian date that many days after 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let (mut year, mut left) = (1970, days);
    // At most 585 rounds: the type ends in 2554.
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_without_loss() {
        assert_eq!(escape(b"/a b\xff\n", false), "/a\\x20b\\xff\\n");
        assert_eq!(escape("\"grün\u{7}\\".as_bytes(), true), "\"\\\"grün\\x07\\\\\"");
        let mut object = Map::new();
        put_bytes(&mut object, "value", b"\xff1");
        put_bytes(&mut object, "path", b"/a");
        assert_eq!(Value::from(object).to_string(), "{\"value\":\"\u{fffd}1\",\"value_hex\":\"ff31\",\"path\":\"/a\"}");
    }

    #[test]
    fn instants_are_dates() {
        assert_eq!(instant(UnixNanos::ZERO), "1970-01-01T00:00:00Z");
        assert_eq!(instant(UnixNanos::new(951_782_400_500_000_000)), "2000-02-29T00:00:00.5Z");
        assert_eq!(instant(UnixNanos::new(1_735_689_599_000_000_001)), "2024-12-31T23:59:59.000000001Z");
        assert_eq!(instant(UnixNanos::MAX), "2554-07-21T23:34:33.709551615Z");
    }
}
