//! JSON text as etcd prints it: escapes, numbers and times, appended to a byte buffer.
//!
//! Owns: how single values look. Which members an object has is decided where it is rendered.
//!
//! Always holds: the output is valid UTF-8 JSON for any input bytes.

use ringd_storage::ids::UnixNanos;

use super::scan::plain_prefix;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const SECONDS_PER_DAY: u64 = 86_400;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Bytes that may not stand in a string as they are: all but printable ASCII, and quote, backslash and the three that
/// Go's encoder escapes for HTML's sake.
#[inline]
fn is_special(byte: u8) -> bool {
    !(0x20..0x80).contains(&byte) | (byte == b'"') | (byte == b'\\') | (byte == b'<') | (byte == b'>') | (byte == b'&')
}

/// Appends `text` as a quoted string. Invalid UTF-8 becomes U+FFFD, one for each byte, as in Go.
pub fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let mut rest = text;
    loop {
        let run = plain_prefix(rest, is_special);
        out.extend_from_slice(&rest[..run]);
        rest = &rest[run..];
        let Some(&byte) = rest.first() else {
            break;
        };
        let used = if byte < 0x80 { push_escaped(out, byte) } else { push_multibyte(out, rest) };
        rest = &rest[used..];
    }
    out.push(b'"');
}

fn push_escaped(out: &mut Vec<u8>, byte: u8) -> usize {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    1
}

/// Appends the character at the start of `rest`, which is not ASCII; returns its length in bytes.
fn push_multibyte(out: &mut Vec<u8>, rest: &[u8]) -> usize {
    let head = &rest[..rest.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
    };
    match valid.chars().next() {
        Some(separator @ ('\u{2028}' | '\u{2029}')) => {
            out.extend_from_slice(if separator == '\u{2028}' { b"\\u2028" } else { b"\\u2029" });
            3
        }
        Some(character) => {
            out.extend_from_slice(&rest[..character.len_utf8()]);
            character.len_utf8()
        }
        None => {
            out.extend_from_slice(b"\\ufffd");
            1
        }
    }
}

/// Appends a decimal number.
pub fn push_u64(out: &mut Vec<u8>, number: u64) {
    push_padded(out, number, 1);
}

/// Appends a decimal number that may be negative.
pub fn push_i64(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    push_u64(out, number.unsigned_abs());
}

/// Appends a quoted RFC 3339 time in UTC with as many fraction digits as it needs.
pub fn push_time(out: &mut Vec<u8>, time: UnixNanos) {
    let (seconds, nanos) = (time.get() / NANOS_PER_SECOND, time.get() % NANOS_PER_SECOND);
    let (days, second) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
    let (year, month, day) = civil_from_days(days);
    out.push(b'"');
    for (number, width, after) in
        [(year, 4, b'-'), (month, 2, b'-'), (day, 2, b'T'), (second / 3600, 2, b':'), (second / 60 % 60, 2, b':')]
    {
        push_padded(out, number, width);
        out.push(after);
    }
    push_padded(out, second % 60, 2);
    if nanos > 0 {
        out.push(b'.');
        push_padded(out, nanos, 9);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
    out.extend_from_slice(b"Z\"");
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. The year is taken to begin on
/// 1 March, so that the leap day is its last; 146,097 days make 400 years.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn push_padded(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while number > 0 {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[at.min(digits.len() - width)..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &[u8]) -> String {
        let mut out = Vec::new();
        push_string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_escaped_as_go_escapes_them() {
        assert_eq!(string(b""), r#""""#);
        assert_eq!(string(b"a\"\\/<>&'"), r#""a\"\\/\u003c\u003e\u0026'""#);
        assert_eq!(string(b"\n\r\t\x08\x0c\x00\x1f\x7f"), "\"\\n\\r\\t\\u0008\\u000c\\u0000\\u001f\x7f\"");
        assert_eq!(string("é你\u{1f600}".as_bytes()), "\"é你\u{1f600}\"");
        assert_eq!(string("\u{2027}\u{2028}\u{2029}".as_bytes()), "\"\u{2027}\\u2028\\u2029\"");
        assert_eq!(string(b"a\xffb\xe4\xbd"), r#""a\ufffdb\ufffd\ufffd""#);
        assert_eq!(string(b"\xed\xa0\x80"), r#""\ufffd\ufffd\ufffd""#);
    }

    #[test]
    fn times_have_no_trailing_zeros() {
        let time = |nanos| {
            let mut out = Vec::new();
            push_time(&mut out, UnixNanos::new(nanos));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(time(0), r#""1970-01-01T00:00:00Z""#);
        assert_eq!(time(951_782_400_000_000_000), r#""2000-02-29T00:00:00Z""#);
        assert_eq!(time(1_700_000_000_120_000_000), r#""2023-11-14T22:13:20.12Z""#);
        assert_eq!(time(1_709_251_199_000_000_001), r#""2024-02-29T23:59:59.000000001Z""#);
        assert_eq!(time(u64::MAX), r#""2554-07-21T23:34:33.709551615Z""#);
    }

    #[test]
    fn numbers_are_decimal() {
        let mut out = Vec::new();
        push_u64(&mut out, 0);
        out.push(b' ');
        push_u64(&mut out, u64::MAX);
        out.push(b' ');
        push_i64(&mut out, i64::MIN);
        assert_eq!(out, b"0 18446744073709551615 -9223372036854775808");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_make_the_string_a_parser_reads_back(text in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let parsed: String = serde_json::from_str(&string(&text)).unwrap();
            let lossless = std::str::from_utf8(&text).map(str::to_owned);
            if let Ok(lossless) = lossless {
                proptest::prop_assert_eq!(parsed, lossless);
            } else {
                let replaced = parsed.contains(char::REPLACEMENT_CHARACTER);
                proptest::prop_assert!(replaced);
            }
        }
    }
}
