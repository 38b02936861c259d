//! The one place that names bincode: structured payloads to bytes and back.
//!
//! bincode 2 is no longer maintained upstream, so nothing else may depend on it. The encoding is its `standard`
//! configuration (variable-length integers, little-endian); `FORMAT.md` describes the resulting bytes, so a successor
//! can be written against the document. Decoding takes untrusted bytes: it has a size limit, and trailing bytes are an
//! error.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::error::{DecodeError, EncodeError};
use serde::{Deserialize, Serialize};

/// The most memory a decoder may claim for one payload. Above every request limit (10 MB forms), far below harm.
pub const DECODE_LIMIT_BYTES: usize = 64 << 20;

const CONFIG: Configuration<LittleEndian, Varint, Limit<DECODE_LIMIT_BYTES>> =
    bincode::config::standard().with_limit::<DECODE_LIMIT_BYTES>();

/// Bytes that are not the payload they should be.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes end early, name an unknown variant, or exceed the limit.
    #[error("malformed payload: {0}")]
    Malformed(#[from] DecodeError),
    /// The payload decoded, but bytes are left over.
    #[error("malformed payload: {left} bytes left over")]
    TrailingBytes {
        /// How many bytes nobody asked for.
        left: usize,
    },
}

/// Appends the encoding of `value` to `out`.
///
/// # Panics
/// When a type cannot be encoded at all (a sequence without a length), which is a defect of the type.
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    struct Sink<'a>(&'a mut Vec<u8>);
    impl bincode::enc::write::Writer for Sink<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }
    // A fresh struct per call keeps the writer a plain append; no limit applies to encoding.
    let mut encoder = bincode::enc::EncoderImpl::new(Sink(out), CONFIG);
    let compat = bincode::serde::Compat(value);
    bincode::enc::Encode::encode(&compat, &mut encoder).expect("payload types always encode");
}

/// Decodes one `T` that borrows from `bytes` and must use all of them.
///
/// # Errors
/// [`CodecError`] when the bytes are not exactly one `T`.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    let (value, used) = bincode::serde::borrow_decode_from_slice(bytes, CONFIG)?;
    if used != bytes.len() {
        return Err(CodecError::TrailingBytes { left: bytes.len() - used });
    }
    Ok(value)
}
