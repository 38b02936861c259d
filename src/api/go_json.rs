//! JSON bodies, read as Go's `encoding/json` reads them: the same documents, the same complaints.
//!
//! Owns: the grammar and the texts of syntax errors. What a document should hold is decided where it is used.
//!
//! Always holds: any bytes are accepted or refused, never a panic; nesting is bounded, so the stack is too; a member
//! name is compared without case, as Go does, and of equal names the last counts.

/// Deeper documents are refused: no request has more than four levels. (Go stops at 10,000, with the same words.)
const DEPTH_MAX: usize = 64;

/// A JSON value. Numbers keep no value: nothing here reads one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`, which Go takes for "leave it as it is".
    Null,
    /// `true` or `false`.
    Bool,
    /// Any number.
    Number,
    /// Text; what is not UTF-8 became U+FFFD.
    Text(String),
    /// `[...]`
    Array(Vec<Value>),
    /// `{...}`, in the order of the document.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// What Go calls this kind of value in its complaints.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Number => "number",
            Self::Text(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }
}

/// A value that Go could not store where it belongs; only that it happened counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongType;

/// The value of an object's member. `None` when it is missing or null, also when `value` itself is null.
///
/// # Errors
/// [`WrongType`] when `value` is no object.
pub fn member<'v>(value: &'v Value, name: &str) -> Result<Option<&'v Value>, WrongType> {
    match value {
        Value::Null => Ok(None),
        Value::Object(members) => {
            let found =
                members.iter().rev().find(|(key, value)| key.eq_ignore_ascii_case(name) && *value != Value::Null);
            Ok(found.map(|(_, value)| value))
        }
        _ => Err(WrongType),
    }
}

/// A text member, empty when it is missing.
///
/// # Errors
/// [`WrongType`].
pub fn text<'v>(value: &'v Value, name: &str) -> Result<&'v str, WrongType> {
    match member(value, name)? {
        None => Ok(""),
        Some(Value::Text(text)) => Ok(text),
        Some(_) => Err(WrongType),
    }
}

/// A member that lists texts; a null among them is an empty text.
///
/// # Errors
/// [`WrongType`].
pub fn texts<'v>(value: &'v Value, name: &str) -> Result<Option<Vec<&'v str>>, WrongType> {
    match member(value, name)? {
        None => Ok(None),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| match item {
                Value::Text(text) => Ok(text.as_str()),
                Value::Null => Ok(""),
                _ => Err(WrongType),
            })
            .collect::<Result<Vec<_>, _>>()
            .map(Some),
        Some(_) => Err(WrongType),
    }
}

/// Reads a document that is one value (Go's `Unmarshal`).
///
/// # Errors
/// Go's text for the first thing that is wrong.
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    let mut parser = Parser { bytes, at: 0 };
    let value = parser.value(0)?;
    parser.blanks();
    match parser.peek() {
        None => Ok(value),
        Some(byte) => Err(invalid(byte, "after top-level value")),
    }
}

/// Reads the first value of a stream (Go's `Decoder`) and ignores what follows it.
///
/// # Errors
/// Go's text, but for an empty stream.
pub fn parse_first(bytes: &[u8]) -> Result<Value, String> {
    Parser { bytes, at: 0 }.value(0)
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// How Go shows a byte in a complaint.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        0x20..0x7f => format!("'{}'", byte as char),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        0x00..0x80 => format!(r"'\x{byte:02x}'"),
        // Go takes the byte for a code point.
        0x80..0xa0 | 0xad => format!(r"'\u{byte:04x}'"),
        _ => format!("'{}'", byte as char),
    }
}

fn invalid(byte: u8, context: &str) -> String {
    format!("invalid character {} {context}", quoted(byte))
}

fn ended() -> String {
    "unexpected end of JSON input".to_owned()
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// The next byte that is not blank, consumed.
    fn next(&mut self) -> Result<u8, String> {
        self.blanks();
        let byte = self.peek().ok_or_else(ended)?;
        self.at += 1;
        Ok(byte)
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err("exceeded max depth".to_owned());
        }
        let byte = self.next()?;
        match byte {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => Ok(Value::Text(self.string()?)),
            b't' => self.word(b"true", Value::Bool),
            b'f' => self.word(b"false", Value::Bool),
            b'n' => self.word(b"null", Value::Null),
            b'-' | b'0'..=b'9' => self.number(byte),
            _ => Err(invalid(byte, "looking for beginning of value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        let mut members = Vec::new();
        let mut byte = self.next()?;
        if byte == b'}' {
            return Ok(Value::Object(members));
        }
        loop {
            if byte != b'"' {
                return Err(invalid(byte, "looking for beginning of object key string"));
            }
            let name = self.string()?;
            byte = self.next()?;
            if byte != b':' {
                return Err(invalid(byte, "after object key"));
            }
            members.push((name, self.value(depth + 1)?));
            match self.next()? {
                b'}' => return Ok(Value::Object(members)),
                b',' => byte = self.next()?,
                other => return Err(invalid(other, "after object key:value pair")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        if self.next()? == b']' {
            return Ok(Value::Array(items));
        }
        self.at -= 1;
        loop {
            items.push(self.value(depth + 1)?);
            match self.next()? {
                b']' => return Ok(Value::Array(items)),
                b',' => {}
                other => return Err(invalid(other, "after array element")),
            }
        }
    }

    fn word(&mut self, word: &[u8], value: Value) -> Result<Value, String> {
        for &expected in &word[1..] {
            let byte = self.peek().ok_or_else(ended)?;
            if byte != expected {
                let (text, expected) = (String::from_utf8_lossy(word), quoted(expected));
                return Err(invalid(byte, &format!("in literal {text} (expecting {expected})")));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn digits(&mut self, context: &str) -> Result<(), String> {
        match self.peek() {
            Some(b'0'..=b'9') => {}
            Some(byte) => return Err(invalid(byte, context)),
            None => return Err(ended()),
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self, first: u8) -> Result<Value, String> {
        if first == b'-' {
            if self.peek() == Some(b'0') {
                self.at += 1;
            } else {
                self.digits("in numeric literal")?;
            }
        } else if first != b'0' {
            while matches!(self.peek(), Some(b'0'..=b'9')) {
                self.at += 1;
            }
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(Value::Number)
    }

    /// The rest of a string, whose opening quote is behind us.
    fn string(&mut self) -> Result<String, String> {
        let mut text = Vec::new();
        loop {
            let byte = self.peek().ok_or_else(ended)?;
            self.at += 1;
            match byte {
                b'"' => return Ok(lossy(&text)),
                b'\\' => self.escape(&mut text)?,
                0x00..0x20 => return Err(invalid(byte, "in string literal")),
                _ => text.push(byte),
            }
        }
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), String> {
        let byte = self.peek().ok_or_else(ended)?;
        self.at += 1;
        text.push(match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let unit = self.hex4()?;
                let character = match unit {
                    0xd800..0xdc00 => self.low_surrogate(unit)?,
                    _ => char::from_u32(unit),
                };
                let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
                text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(invalid(byte, "in string escape code")),
        });
        Ok(())
    }

    /// The second half of a pair, if one follows; else it is left where it is.
    fn low_surrogate(&mut self, high: u32) -> Result<Option<char>, String> {
        if !self.bytes[self.at..].starts_with(b"\\u") {
            return Ok(None);
        }
        let before = self.at;
        self.at += 2;
        let low = self.hex4()?;
        if (0xdc00..0xe000).contains(&low) {
            return Ok(char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)));
        }
        self.at = before;
        Ok(None)
    }

    fn hex4(&mut self) -> Result<u32, String> {
        let mut unit = 0;
        for _ in 0..4 {
            let byte = self.peek().ok_or_else(ended)?;
            let digit =
                (byte as char).to_digit(16).ok_or_else(|| invalid(byte, "in \\u hexadecimal character escape"))?;
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }
}

/// One U+FFFD for each byte that is not UTF-8, as Go decodes.
fn lossy(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, chunk.invalid().len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn complaints_are_gos() {
        for (document, complaint) in [
            ("", "unexpected end of JSON input"),
            ("  ", "unexpected end of JSON input"),
            ("{bad", "invalid character 'b' looking for beginning of object key string"),
            ("{\"a\"1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("nope", "invalid character 'o' in literal null (expecting 'u')"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("01", "invalid character '1' after top-level value"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1e+x", "invalid character 'x' in exponent of numeric literal"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("'", "invalid character '\\'' looking for beginning of value"),
            ("\"a", "unexpected end of JSON input"),
        ] {
            assert_eq!(parse(document.as_bytes()).unwrap_err(), complaint, "{document}");
        }
        assert_eq!(parse(&[b'['; 100_000]).unwrap_err(), "exceeded max depth");
    }

    #[test]
    fn members_are_found_without_case_and_null_is_nothing() {
        let value = parse(br#"{"PeerURLs":["a",null],"peerurls":null,"x":"1","X":"2","n":[1]}"#).unwrap();
        assert_eq!(texts(&value, "peerURLs"), Ok(Some(vec!["a", ""])));
        assert_eq!(text(&value, "x"), Ok("2"));
        assert_eq!(text(&value, "missing"), Ok(""));
        assert_eq!(texts(&value, "x"), Err(WrongType));
        assert_eq!(texts(&value, "n"), Err(WrongType));
        assert_eq!(text(&Value::Null, "x"), Ok(""));
        assert_eq!(text(&Value::Number, "x"), Err(WrongType));
    }

    #[test]
    fn a_stream_ends_with_its_first_value() {
        assert_eq!(parse_first(b" {} garbage"), Ok(Value::Object(Vec::new())));
        assert!(parse_first(b"").is_err());
    }

    #[test]
    fn escapes_and_broken_text() {
        let read = |bytes: &[u8]| parse(bytes);
        assert_eq!(read(br#""\u00e9\ud83d\ude00\ud83dx\n""#), Ok(Value::Text("é😀\u{fffd}x\n".to_owned())));
        assert_eq!(read(b"\"a\xff\xfe\""), Ok(Value::Text("a\u{fffd}\u{fffd}".to_owned())));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&bytes).is_ok();
        }

        #[test]
        fn documents_are_accepted_exactly_when_another_parser_does(text in "[\\[\\]{}\",:0-9a-e.nultrfs\\\\ -]{0,12}") {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            // The other parser refuses numbers beyond an f64 and lone surrogates; this alphabet has few digits.
            let words = theirs.as_ref().err().map(ToString::to_string).unwrap_or_default();
            prop_assume!(!words.contains("number out of range") && !words.contains("surrogate"));
            prop_assert_eq!(parse(text.as_bytes()).is_ok(), theirs.is_ok(), "{}", text);
        }
    }
}
