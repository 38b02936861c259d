//! The chunked decoder against a second decoder that reads whole bodies and knows no limits.

use proptest::prelude::*;
use ringd::wire::http_body::{BodyError, ChunkDecoder, ChunkProgress};

use crate::run;

/// Small, so that inputs reach it.
const BODY_BYTES_MAX: u64 = 4096;

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"0\r\n\r\n",
    b"0\r\n",
    b"1\r\na\r\n",
    b";ext=1",
    b"fffffffffffffffff",
    b"1001\r\n",
    b"T: v\r\n",
    b" ",
    b"\0",
];

/// `data` in chunks of the given sizes, over and over, and a trailer.
pub fn encode(mut data: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sizes = sizes.iter().cycle();
    while !data.is_empty() {
        let (chunk, rest) = data.split_at((*sizes.next().unwrap()).min(data.len()));
        out.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        data = rest;
    }
    out.extend_from_slice(b"0\r\nTrailer: t\r\n\r\n");
    out
}

/// The line at the start of `rest` and what follows its CRLF; none if the first line end is anything else.
fn line(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'))?;
    Some((&rest[..end], rest[end..].strip_prefix(b"\r\n")?))
}

/// Body and encoded length of a complete, well-formed body at the start of `input`.
fn model(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut rest = input;
    loop {
        let (head, after) = line(rest)?;
        let digits = head.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if !matches!(head.get(digits), None | Some(b';' | b' ' | b'\t')) {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(&head[..digits]).ok()?, 16).ok()?;
        rest = after;
        if size == 0 {
            break;
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
    loop {
        let (trailer, after) = line(rest)?;
        rest = after;
        if trailer.is_empty() {
            return Some((body, input.len() - rest.len()));
        }
    }
}

/// Feeds `input` in pieces of the given length; the whole buffer comes back.
fn decode(input: &[u8], piece: usize) -> (Result<ChunkProgress, BodyError>, Vec<u8>) {
    let mut decoder = ChunkDecoder::new(BODY_BYTES_MAX);
    let mut buf = Vec::new();
    for piece in input.chunks(piece) {
        buf.extend_from_slice(piece);
        match decoder.advance(&mut buf) {
            Ok(ChunkProgress::NeedMore) => {}
            end => {
                let have = buf.len();
                buf.extend_from_slice(&input[have..]);
                return (end, buf);
            }
        }
    }
    (Ok(ChunkProgress::NeedMore), buf)
}

#[test]
fn any_bytes_decode_as_the_model_says() {
    run("chunked", WORDS, |input, rng| {
        let (end, buf) = decode(input, input.len().max(1));
        match (end, model(input)) {
            (Ok(ChunkProgress::Done { body_len, consumed }), Some((body, encoded))) => {
                assert_eq!((&buf[..body_len], consumed), (&body[..], encoded));
                assert_eq!(buf[consumed..], input[consumed..], "bytes after the body were touched");
            }
            (
                Err(
                    BodyError::TooLarge
                    | BodyError::LineTooLong
                    | BodyError::TooMuchFraming
                    | BodyError::ChunkLengthTooLarge,
                ),
                _,
            )
            | (Err(_) | Ok(ChunkProgress::NeedMore), None) => {}
            (end, model) => panic!("decoder {end:?}, model {model:?}"),
        }
        for piece in [1, 1 + rng.below(input.len() + 1)] {
            assert_eq!(decode(input, piece).0, end, "in pieces of {piece}");
        }
    });
}

proptest! {
    #[test]
    fn what_was_encoded_comes_back(
        data in proptest::collection::vec(any::<u8>(), 0..4096),
        sizes in proptest::collection::vec(1..600_usize, 1..8),
        piece in 1..300_usize,
    ) {
        let encoded = encode(&data, &sizes);
        let (end, buf) = decode(&encoded, piece);
        prop_assert_eq!(end, Ok(ChunkProgress::Done { body_len: data.len(), consumed: encoded.len() }));
        prop_assert_eq!(&buf[..data.len()], &data[..]);
    }
}
