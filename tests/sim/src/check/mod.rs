//! What must hold of a run, judged from outside: from what clients were told, watchers saw, and members show.
//!
//! Owns: the record of a run. Knows nothing of nodes, logs, disks or networks and calls none of their code: facts come
//! in as numbers and bytes.

pub mod facts;
pub mod linear;
pub mod state;
pub mod ttl;
pub mod watch;

/// What is wrong, in a sentence.
pub type Verdict = Result<(), String>;

/// FNV-1a over parts: a digest that needs no crate and is the same everywhere.
#[must_use]
pub fn digest(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut eat = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    for part in parts {
        part.iter().copied().for_each(&mut eat);
        (part.len() as u64).to_le_bytes().into_iter().for_each(&mut eat);
    }
    hash
}
