//! Clients that change users, roles and the switch of the auth state, and ask what they are.
//!
//! Owns: what is asked, and what each answer says of a register that the checks know: a user's password (the hash begins
//! with the write's number), whether a role is granted to a user who stays, whether a role exists, whether auth is on.
//! Touches: the core's auth state, to read it.

use ringd::core::auth::{Auth, AuthDone, AuthRefusal, ROOT};
use ringd_storage::payload::{AuthWrite, PermissionRecord, RoleChange, RoleRecord, UserChange};

use crate::check::linear::Op;
use crate::client::number_of;
use crate::rng::Rng;

/// Users that come and go; the last one stays, once it was made.
const USERS: [&str; 3] = ["ann", "bob", ROOT];
/// A user that stays, to whom the role is granted.
const KEEPER: &str = "keeper";
/// The role.
const ROLE: &str = "reader";
/// What stands for yes in the registers that are yes or no.
const YES: u64 = 1;

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A user of this number is made, or gets another password.
    Password(u16),
    /// A user is removed.
    Remove(u16),
    /// The role is granted to the user that stays.
    Grant,
    /// It is taken again.
    Revoke,
    /// The user that stays is made, or gets another password.
    Keep,
    /// The role is made.
    MakeRole,
    /// It gets a permission more.
    Permit,
    /// It is removed.
    RemoveRole,
    /// Auth is switched on.
    Enable,
    /// And off.
    Disable,
}

/// Registers of the auth state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A user's password.
    Password(u16),
    /// Whether the role is granted.
    Granted,
    /// Whether the role exists.
    Role,
    /// Whether auth is on.
    Enabled,
}

impl Asked {
    /// Its number among all registers.
    #[must_use]
    pub const fn register(self) -> u16 {
        /// Far above those of keys.
        const FIRST: u16 = 100;
        match self {
            Self::Granted => FIRST,
            Self::Role => FIRST + 1,
            Self::Enabled => FIRST + 2,
            Self::Password(user) => FIRST + 3 + user,
        }
    }

    /// One of them.
    pub fn choose(rng: &mut Rng) -> Self {
        match rng.below(6) {
            0..3 => Self::Password(rng.below(USERS.len() as u64) as u16),
            3 => Self::Granted,
            4 => Self::Role,
            _ => Self::Enabled,
        }
    }

    /// What it is in a state.
    #[must_use]
    pub fn look(self, auth: &Auth) -> Option<u64> {
        let yes = |is: bool| is.then_some(YES);
        match self {
            Self::Password(user) => auth.password_hash(USERS[usize::from(user)]).map(|hash| number_of(hash.as_bytes())),
            Self::Granted => yes(auth.roles_of(KEEPER).is_ok_and(|roles| roles.iter().any(|role| role == ROLE))),
            Self::Role => yes(auth.role(ROLE).is_ok()),
            Self::Enabled => yes(auth.is_enabled()),
        }
    }
}

impl Change {
    /// One of them.
    pub fn choose(rng: &mut Rng) -> Self {
        match rng.below(20) {
            0..6 => Self::Password(rng.below(USERS.len() as u64) as u16),
            // Root stays, so that auth can be switched on.
            6..8 => Self::Remove(rng.below(USERS.len() as u64 - 1) as u16),
            8..11 => Self::Grant,
            11..13 => Self::Revoke,
            13 => Self::Keep,
            14 => Self::MakeRole,
            15 => Self::Permit,
            16 => Self::RemoveRole,
            17..19 => Self::Enable,
            _ => Self::Disable,
        }
    }

    /// The write; `text` begins with its number.
    #[must_use]
    pub fn write(self, text: &str) -> AuthWrite<'_> {
        let user = |name| UserChange { name, password_hash: None, roles: None, grant: vec![], revoke: vec![] };
        let pattern = PermissionRecord { read: Some(vec![text]), write: None };
        match self {
            Self::Password(of) => {
                AuthWrite::PutUser(UserChange { password_hash: Some(text), ..user(USERS[usize::from(of)]) })
            }
            Self::Keep => AuthWrite::PutUser(UserChange { password_hash: Some(text), ..user(KEEPER) }),
            Self::Remove(of) => AuthWrite::DeleteUser(USERS[usize::from(of)]),
            Self::Grant => AuthWrite::PutUser(UserChange { grant: vec![ROLE], ..user(KEEPER) }),
            Self::Revoke => AuthWrite::PutUser(UserChange { revoke: vec![ROLE], ..user(KEEPER) }),
            Self::MakeRole => AuthWrite::CreateRole(RoleRecord { name: ROLE, permissions: pattern }),
            Self::Permit => AuthWrite::UpdateRole(RoleChange { name: ROLE, grant: Some(pattern), revoke: None }),
            Self::RemoveRole => AuthWrite::DeleteRole(ROLE),
            Self::Enable => AuthWrite::Enable,
            Self::Disable => AuthWrite::Disable,
        }
    }

    /// The register it is about; the user that stays has none.
    #[must_use]
    pub const fn about(self) -> Option<Asked> {
        Some(match self {
            Self::Password(user) | Self::Remove(user) => Asked::Password(user),
            Self::Grant | Self::Revoke => Asked::Granted,
            Self::MakeRole | Self::Permit | Self::RemoveRole => Asked::Role,
            Self::Enable | Self::Disable => Asked::Enabled,
            Self::Keep => return None,
        })
    }

    /// What an answer says of the register; `None` for nothing.
    #[must_use]
    pub fn op(self, number: u64, answer: &Result<AuthDone, AuthRefusal>) -> Option<Op> {
        let (yes, no) = (Op::Read(Some(YES)), Op::Read(None));
        Some(match (self, answer) {
            (Self::Password(_), Ok(AuthDone::User { created: true, .. })) => Op::Create(number),
            (Self::Password(_), Ok(_)) => Op::Replace(number),
            (Self::Remove(_), Ok(_)) => Op::RemoveAny,
            (Self::Remove(_), Err(AuthRefusal::NoUserToDelete(_))) => Op::Missed,
            (Self::Grant | Self::MakeRole | Self::Enable, Ok(_)) => Op::Create(YES),
            (Self::Revoke | Self::RemoveRole | Self::Disable, Ok(_)) => Op::Remove(YES),
            (Self::Permit, Ok(_)) => yes,
            (Self::Grant, Err(AuthRefusal::DuplicateRole { .. })) => yes,
            (Self::Grant | Self::Revoke, Err(AuthRefusal::NoUser(_))) => no,
            (Self::Revoke, Err(AuthRefusal::UngrantedRole { .. })) => no,
            (Self::MakeRole, Err(AuthRefusal::RoleExists(_))) => yes,
            (Self::Permit, Err(AuthRefusal::NoRole(_))) => no,
            (Self::RemoveRole, Err(AuthRefusal::NoRoleToDelete(_))) => no,
            (Self::Enable, Err(AuthRefusal::AlreadyEnabled)) => yes,
            (Self::Enable, Err(AuthRefusal::NoRootUser)) => no,
            (Self::Disable, Err(AuthRefusal::AlreadyDisabled)) => no,
            (Self::Keep, Ok(_)) => return None,
            (_, Err(refusal)) => unreachable!("{self:?} is never refused with {refusal}"),
        })
    }

    /// The same when nobody knows whether it happened.
    #[must_use]
    pub const fn maybe(self, number: u64) -> Option<Op> {
        Some(match self {
            Self::Password(_) => Op::MaybeSet(number),
            Self::Grant | Self::MakeRole | Self::Enable => Op::MaybeCreate(YES),
            Self::Remove(_) | Self::Revoke | Self::RemoveRole | Self::Disable => Op::MaybeRemove(None),
            Self::Keep | Self::Permit => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::linear::{Call, check};

    /// Applies changes one after the other and gathers what their answers say of each register.
    fn history(changes: &[Change], asked: Asked) -> (Vec<Call>, Auth) {
        let (mut auth, mut calls) = (Auth::default(), Vec::new());
        for (at, change) in changes.iter().enumerate() {
            let number = at as u64 + 10;
            let answer = auth.apply(&change.write(&format!("{number}-x"))).outcome;
            if change.about() == Some(asked)
                && let Some(op) = change.op(number, &answer)
            {
                calls.push(Call { begun: number * 10, ended: number * 10 + 5, op });
            }
            let look = Op::Read(asked.look(&auth));
            calls.push(Call { begun: number * 10 + 6, ended: number * 10 + 7, op: look });
        }
        (calls, auth)
    }

    #[test]
    fn what_the_core_answers_is_linearizable_and_a_forgotten_change_is_not() {
        let root = USERS.len() as u16 - 1;
        let lives: [(Asked, &[Change]); 4] = [
            (Asked::Password(0), &[Change::Remove(0), Change::Password(0), Change::Password(0), Change::Remove(0)]),
            (
                Asked::Granted,
                &[
                    Change::Grant,
                    Change::Keep,
                    Change::Revoke,
                    Change::Grant,
                    Change::Grant,
                    Change::Revoke,
                    Change::Keep,
                ],
            ),
            (Asked::Role, &[Change::Permit, Change::MakeRole, Change::MakeRole, Change::Permit, Change::RemoveRole]),
            (
                Asked::Enabled,
                &[
                    Change::Enable,
                    Change::Disable,
                    Change::Password(root),
                    Change::Enable,
                    Change::Enable,
                    Change::Disable,
                ],
            ),
        ];
        for (asked, changes) in lives {
            let (calls, _) = history(changes, asked);
            check(&calls).unwrap();
            let writes = |op: Op| matches!(op, Op::Create(_) | Op::Replace(_) | Op::Remove(_) | Op::RemoveAny);
            for at in (0..calls.len()).filter(|at| writes(calls[*at].op)) {
                let mut without = calls.clone();
                without.remove(at);
                assert!(check(&without).is_err(), "{asked:?} without {:?}", calls[at].op);
            }
        }
    }

    #[test]
    fn a_change_that_nobody_heard_of_may_have_happened_or_not() {
        for asked in [Asked::Password(0), Asked::Granted, Asked::Enabled] {
            let change = match asked {
                Asked::Granted => Change::Grant,
                Asked::Enabled => Change::Enable,
                _ => Change::Password(0),
            };
            let open = Call { begun: 1, ended: u64::MAX, op: change.maybe(YES).unwrap() };
            for found in [None, Some(YES)] {
                check(&[open, Call { begun: 5, ended: 6, op: Op::Read(found) }]).unwrap();
            }
            let later = |begun, found| Call { begun, ended: begun + 1, op: Op::Read(found) };
            assert!(check(&[open, later(5, Some(YES)), later(8, None)]).is_err(), "it was undone");
        }
    }
}
