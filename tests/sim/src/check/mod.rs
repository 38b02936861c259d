//! What must hold of a run, judged from outside: from what clients were told, watchers saw, and members show.
//!
//! Owns: the record of a run. Knows nothing of nodes, logs, disks or networks and calls none of their code: facts come
//! in as numbers and bytes.

pub mod facts;
pub mod linear;
pub mod state;
pub mod ttl;
pub mod votes;
pub mod watch;

/// What is wrong, in a sentence.
pub type Verdict = Result<(), String>;

/// A digest of parts that needs no crate and is the same everywhere: FNV-1a's idea, a word at a time, with a rotation so
/// that high bits reach low ones.
#[must_use]
pub fn digest(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut eat = |word: u64| hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    for part in parts {
        let (words, rest) = part.as_chunks::<8>();
        words.iter().for_each(|word| eat(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        eat(u64::from_le_bytes(last));
        eat(part.len() as u64);
    }
    hash
}
