//! Finding the first byte of interest in mostly uninteresting text.
//!
//! Owns: one loop, written so that the compiler turns it into vector code: whole chunks are tested without branching on
//! single bytes.

/// Two vector registers of the smallest x86-64; longer chunks only make short texts slower.
const CHUNK_BYTES: usize = 32;

/// The place of the first byte for which `is_special` holds, or the length of `text`. `is_special` must be cheap and
/// without branches.
#[inline]
pub(super) fn plain_prefix(text: &[u8], is_special: impl Fn(u8) -> bool + Copy) -> usize {
    let mut at = 0;
    for chunk in text.chunks_exact(CHUNK_BYTES) {
        if chunk.iter().fold(false, |found, &byte| found | is_special(byte)) {
            break;
        }
        at += CHUNK_BYTES;
    }
    text[at..].iter().position(|&byte| is_special(byte)).map_or(text.len(), |found| at + found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_at_every_place() {
        for length in 0..100 {
            let mut text = vec![b'a'; length];
            assert_eq!(plain_prefix(&text, |byte| byte == b'%'), length);
            for at in (0..length).rev() {
                text[at] = b'%';
                assert_eq!(plain_prefix(&text, |byte| byte == b'%'), at);
            }
        }
    }
}
