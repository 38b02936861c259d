//! Who a request comes from: passwords are hashed and verified off the thread, and a verified one is remembered.
//!
//! Owns: the verdicts of this process, and the turn to use bcrypt. Touches: the auth state it is shown, bcrypt, the
//! executor's blocking threads. Keeps no password: a verdict is found by a keyed hash of the `Authorization` header,
//! the key is random and of this process.
//!
//! Invariants:
//! 1. A verdict counts only for the version of the auth state it was made from; any auth change drops all of them.
//! 2. The number of verdicts is bounded, and refusals are not among them: guessing does not push anybody out.
//! 3. At most one bcrypt runs at a time, so that guessing cannot occupy the threads the disk needs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use bcrypt::{Version, hash_with_salt, verify};
use glommio::sync::Semaphore;
use sha2::{Digest as _, Sha256};

use super::connection::Conn;
use super::driver::Hub;
use crate::api::auth::basic_credentials;
use crate::core::auth::Auth;

/// bcrypt's cost, as etcd's v2 auth has it: about 50 ms.
const BCRYPT_COST: u32 = 10;
/// Verdicts of one generation; there are two. At about 120 bytes each they stay below 512 KiB.
const GENERATION_MAX: usize = 2048;

/// A block of SHA-256.
const KEY_BYTES: usize = 64;

/// A keyed hash of a credential.
pub type Fingerprint = [u8; 32];

/// What is known of a request's sender.
#[derive(Debug)]
pub enum Sender {
    /// It showed no credentials.
    Guest,
    /// A user whose password was verified.
    User(Rc<str>),
    /// Its credentials are wrong or unreadable.
    Refused,
    /// Its password must be verified first; then ask again.
    Unknown(VerifyPlan),
}

/// A password to verify.
pub struct VerifyPlan {
    fingerprint: Fingerprint,
    version: u64,
    user: String,
    password: Vec<u8>,
    hash: String,
}

impl std::fmt::Debug for VerifyPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifyPlan").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A password to hash.
pub struct HashPlan {
    fingerprint: Fingerprint,
    password: String,
}

impl std::fmt::Debug for HashPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HashPlan").finish_non_exhaustive()
    }
}

/// What a connection's own last bcrypt found, until it is used or void.
#[derive(Debug, Default)]
pub struct Findings {
    /// Credentials that were wrong, and in which version of the auth state.
    refused: RefCell<Option<(Fingerprint, u64)>>,
    /// The hash of a password that is about to be stored.
    hashed: RefCell<Option<(Fingerprint, String)>>,
}

/// Verdicts in two generations: when the young one is full it becomes the old one, and the old one is forgotten.
#[derive(Debug, Default)]
struct Verdicts {
    version: u64,
    young: BTreeMap<Fingerprint, Rc<str>>,
    old: BTreeMap<Fingerprint, Rc<str>>,
}

impl Verdicts {
    fn find(&mut self, version: u64, fingerprint: &Fingerprint) -> Option<Rc<str>> {
        if self.version != version {
            *self = Self { version, ..Self::default() };
        }
        if let Some(user) = self.young.get(fingerprint) {
            return Some(Rc::clone(user));
        }
        let user = self.old.remove(fingerprint)?;
        self.insert(version, *fingerprint, Rc::clone(&user));
        Some(user)
    }

    fn insert(&mut self, version: u64, fingerprint: Fingerprint, user: Rc<str>) {
        if self.version != version {
            return;
        }
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(fingerprint, user);
    }
}

/// The verdicts of this process.
pub struct Credentials {
    /// SHA-256 that has taken in a random key of one block: a header costs one more block.
    keyed: Sha256,
    verdicts: RefCell<Verdicts>,
    turn: Semaphore,
}

impl Credentials {
    /// An empty table with a random key.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new() -> io::Result<Self> {
        let key: [u8; KEY_BYTES] = random()?;
        Ok(Self { keyed: Sha256::new_with_prefix(key), verdicts: RefCell::default(), turn: Semaphore::new(1) })
    }

    fn fingerprint(&self, secret: &[u8]) -> Fingerprint {
        self.keyed.clone().chain_update(secret).finalize().into()
    }

    /// Who sent a request with this `Authorization` header.
    pub fn sender(&self, auth: &Auth, conn: &Conn, header: Option<&[u8]>) -> Sender {
        let Some(header) = header.filter(|header| !header.is_empty()) else {
            let named = conn.certificate_user().filter(|user| auth.password_hash(user).is_some());
            return named.map_or(Sender::Guest, |user| Sender::User(Rc::clone(user)));
        };
        let (fingerprint, version) = (self.fingerprint(header), auth.version());
        if let Some(user) = self.verdicts.borrow_mut().find(version, &fingerprint) {
            return Sender::User(user);
        }
        if *conn.findings().refused.borrow() == Some((fingerprint, version)) {
            return Sender::Refused;
        }
        let Some(credentials) = basic_credentials(header) else { return Sender::Refused };
        let Some(hash) = auth.password_hash(&credentials.user) else { return Sender::Refused };
        Sender::Unknown(VerifyPlan {
            fingerprint,
            version,
            hash: hash.to_owned(),
            user: credentials.user,
            password: credentials.password,
        })
    }

    /// The hash of a password if this connection has just made it, else the plan to make it.
    pub fn hash_of(&self, conn: &Conn, password: &str) -> Result<String, HashPlan> {
        let fingerprint = self.fingerprint(password.as_bytes());
        match &*conn.findings().hashed.borrow() {
            Some((made_for, hash)) if *made_for == fingerprint => Ok(hash.clone()),
            _ => Err(HashPlan { fingerprint, password: password.to_owned() }),
        }
    }
}

impl Findings {
    /// The hash was used: equal passwords of two users shall not have equal hashes.
    pub fn forget_hash(&self) {
        *self.hashed.borrow_mut() = None;
    }
}

/// Verifies a password off the thread, when it is its turn. The verdict is there when the request is looked at again.
pub async fn verify_password(hub: &Hub, conn: &Conn, plan: VerifyPlan) {
    let credentials = &hub.credentials;
    let turn = credentials.turn.acquire_permit(1).await;
    let VerifyPlan { fingerprint, version, user, password, hash } = plan;
    // Somebody before us in the line may have had the same credentials, or changed what they are checked against.
    let is_stale = hub.node.borrow().auth().version() != version;
    if turn.is_err() || is_stale || credentials.verdicts.borrow_mut().find(version, &fingerprint).is_some() {
        return;
    }
    let right = glommio::executor().spawn_blocking(move || verify(password, &hash).unwrap_or(false)).await;
    if right {
        credentials.verdicts.borrow_mut().insert(version, fingerprint, user.into());
    } else {
        *conn.findings().refused.borrow_mut() = Some((fingerprint, version));
    }
}

/// Hashes a password off the thread, when it is its turn.
///
/// # Errors
/// When the system has no randomness, or bcrypt refuses the password.
pub async fn hash_password(hub: &Hub, conn: &Conn, plan: HashPlan) -> io::Result<()> {
    let salt = random()?;
    let turn = hub.credentials.turn.acquire_permit(1).await;
    let HashPlan { fingerprint, password } = plan;
    let hashed = glommio::executor().spawn_blocking(move || hash_with_salt(password, BCRYPT_COST, salt)).await;
    drop(turn);
    let hash = hashed.map_err(io::Error::other)?.format_for_version(Version::TwoA);
    *conn.findings().hashed.borrow_mut() = Some((fingerprint, hash));
    Ok(())
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(number: u64) -> Fingerprint {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    #[test]
    fn verdicts_are_bounded_and_the_used_ones_stay() {
        let mut verdicts = Verdicts::default();
        for number in 0..10 * GENERATION_MAX as u64 {
            verdicts.insert(0, fingerprint(number), "u".into());
            assert!(verdicts.find(0, &fingerprint(0)).is_some(), "used after {number}");
            assert!(verdicts.young.len() + verdicts.old.len() <= 2 * GENERATION_MAX);
        }
        assert!(verdicts.find(0, &fingerprint(1)).is_none());
    }

    #[test]
    fn any_change_of_auth_drops_all_verdicts_and_old_ones_come_too_late() {
        let mut verdicts = Verdicts::default();
        verdicts.insert(0, fingerprint(1), "u".into());
        assert!(verdicts.find(0, &fingerprint(1)).is_some());
        assert!(verdicts.find(1, &fingerprint(1)).is_none());
        verdicts.insert(0, fingerprint(1), "u".into());
        assert!(verdicts.find(1, &fingerprint(1)).is_none());
    }

    #[test]
    fn fingerprints_need_the_key() {
        let (one, other) = (Credentials::new().unwrap(), Credentials::new().unwrap());
        assert_eq!(one.fingerprint(b"Basic x"), one.fingerprint(b"Basic x"));
        assert_ne!(one.fingerprint(b"Basic x"), one.fingerprint(b"Basic y"));
        assert_ne!(one.fingerprint(b"Basic x"), other.fingerprint(b"Basic x"));
    }
}
