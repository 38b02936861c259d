//! One test per rule of auth, and properties of the pattern matcher.

use proptest::prelude::*;

use super::*;

fn user<'a>(name: &'a str, hash: Option<&'a str>) -> UserChange<'a> {
    UserChange { name, password_hash: hash, roles: None, grant: vec![], revoke: vec![] }
}

fn put(auth: &mut Auth, change: UserChange<'_>) -> Result<AuthDone, AuthRefusal> {
    auth.apply(&AuthWrite::PutUser(change)).outcome
}

fn user_done(name: &str, roles: Option<&[&str]>, created: bool) -> Result<AuthDone, AuthRefusal> {
    let roles = roles.map(|roles| roles.iter().map(|&role| role.to_owned()).collect());
    Ok(AuthDone::User { name: name.to_owned(), roles, created })
}

fn patterns<'a>(read: Option<&[&'a str]>, write: Option<&[&'a str]>) -> PermissionRecord<'a> {
    PermissionRecord { read: read.map(<[_]>::to_vec), write: write.map(<[_]>::to_vec) }
}

fn create_role(auth: &mut Auth, name: &str, permissions: PermissionRecord<'_>) -> Result<AuthDone, AuthRefusal> {
    auth.apply(&AuthWrite::CreateRole(RoleRecord { name, permissions })).outcome
}

fn update_role<'a>(
    auth: &mut Auth,
    name: &'a str,
    grant: Option<PermissionRecord<'a>>,
    revoke: Option<PermissionRecord<'a>>,
) -> Result<AuthDone, AuthRefusal> {
    auth.apply(&AuthWrite::UpdateRole(RoleChange { name, grant, revoke })).outcome
}

fn shown(done: Result<AuthDone, AuthRefusal>) -> (Option<Vec<String>>, Option<Vec<String>>) {
    match done {
        Ok(AuthDone::Role { permissions, .. }) => (permissions.read, permissions.write),
        other => panic!("a role, not {other:?}"),
    }
}

fn list(texts: &[&str]) -> Option<Vec<String>> {
    Some(texts.iter().map(|&text| text.to_owned()).collect())
}

/// Auth on, root with a password, guest without rights.
fn enabled() -> Auth {
    let mut auth = Auth::default();
    put(&mut auth, user(ROOT, Some("h"))).unwrap();
    auth.apply(&AuthWrite::Enable).outcome.unwrap();
    auth.apply(&AuthWrite::DeleteRole(GUEST)).outcome.unwrap();
    auth
}

#[test]
fn a_new_user_shows_null_and_a_changed_one_a_list() {
    let mut auth = Auth::default();
    assert_eq!(put(&mut auth, user("al", Some("h1"))), user_done("al", None, true));
    assert_eq!(put(&mut auth, user("al", Some("h2"))), user_done("al", Some(&[]), false));
    assert_eq!(auth.password_hash("al"), Some("h2"));
    let listed = UserChange { roles: Some(vec![]), ..user("bo", Some("h")) };
    assert_eq!(put(&mut auth, listed), user_done("bo", Some(&[]), true));
}

#[test]
fn a_user_needs_a_password_only_to_begin_with() {
    let mut auth = Auth::default();
    assert_eq!(put(&mut auth, user("al", None)), Err(AuthRefusal::EmptyPassword("al".to_owned())));
    put(&mut auth, user("al", Some("h"))).unwrap();
    assert_eq!(put(&mut auth, user("al", None)), user_done("al", Some(&[]), false), "null became a list");
    assert_eq!(put(&mut auth, user("al", None)), Err(AuthRefusal::UserUnchanged));
    assert_eq!(auth.password_hash("al"), Some("h"));
}

#[test]
fn roles_in_a_request_mean_a_new_user() {
    let mut auth = Auth::default();
    let with_roles = || UserChange { roles: Some(vec!["z", "a"]), ..user("al", Some("h")) };
    assert_eq!(put(&mut auth, with_roles()), user_done("al", Some(&["z", "a"]), false), "as given, and not `created`");
    assert_eq!(put(&mut auth, with_roles()), Err(AuthRefusal::UserExists("al".to_owned())));
}

#[test]
fn roles_are_granted_and_revoked_one_by_one() {
    let mut auth = Auth::default();
    let grant = |roles: &[&'static str]| UserChange { grant: roles.to_vec(), ..user("al", None) };
    let revoke = |roles: &[&'static str]| UserChange { revoke: roles.to_vec(), ..user("al", None) };
    assert_eq!(put(&mut auth, grant(&["r"])), Err(AuthRefusal::NoUser("al".to_owned())));
    put(&mut auth, user("al", Some("h"))).unwrap();
    assert_eq!(put(&mut auth, grant(&["r", "b"])), user_done("al", Some(&["b", "r"]), false), "sorted");
    let duplicate = AuthRefusal::DuplicateRole { role: "b".to_owned(), user: "al".to_owned() };
    assert_eq!(put(&mut auth, grant(&["x", "b"])), Err(duplicate));
    assert_eq!(auth.roles_of("al").unwrap(), ["b", "r"], "nothing of a refused change stays");
    assert_eq!(put(&mut auth, revoke(&["b"])), user_done("al", Some(&["r"]), false));
    let ungranted = AuthRefusal::UngrantedRole { role: "b".to_owned(), user: "al".to_owned() };
    assert_eq!(put(&mut auth, revoke(&["b"])), Err(ungranted));
    let swap = UserChange { revoke: vec!["r"], ..grant(&["n"]) };
    assert_eq!(put(&mut auth, swap), user_done("al", Some(&["n"]), false));
}

#[test]
fn user_root_always_has_the_role_root() {
    let mut auth = Auth::default();
    assert_eq!(put(&mut auth, user(ROOT, Some("h"))), user_done(ROOT, Some(&[ROOT]), true));
    let revoke = UserChange { revoke: vec![ROOT], ..user(ROOT, None) };
    assert_eq!(put(&mut auth, revoke), user_done(ROOT, Some(&[]), false));
    assert_eq!(auth.roles_of(ROOT).unwrap(), [ROOT]);
    assert!(auth.is_root(ROOT));
}

#[test]
fn users_are_deleted_but_root_not_while_auth_is_on() {
    let mut auth = enabled();
    let delete = |auth: &mut Auth, name| auth.apply(&AuthWrite::DeleteUser(name)).outcome;
    assert_eq!(delete(&mut auth, ROOT), Err(AuthRefusal::RootUserNeeded));
    assert_eq!(delete(&mut auth, "al"), Err(AuthRefusal::NoUserToDelete("al".to_owned())));
    assert_eq!(auth.apply(&AuthWrite::Disable).outcome, Ok(AuthDone::Quiet));
    assert_eq!(delete(&mut auth, ROOT), Ok(AuthDone::Quiet));
    assert_eq!(auth.roles_of(ROOT), Err(AuthRefusal::NoUser(ROOT.to_owned())));
}

#[test]
fn auth_is_switched_on_with_a_root_user_only() {
    let mut auth = Auth::default();
    let apply = |auth: &mut Auth, write| auth.apply(&write).outcome;
    assert_eq!(apply(&mut auth, AuthWrite::Disable), Err(AuthRefusal::AlreadyDisabled));
    assert_eq!(apply(&mut auth, AuthWrite::Enable), Err(AuthRefusal::NoRootUser));
    put(&mut auth, user(ROOT, Some("h"))).unwrap();
    assert_eq!(apply(&mut auth, AuthWrite::Enable), Ok(AuthDone::Quiet));
    assert!(auth.is_enabled());
    assert_eq!(apply(&mut auth, AuthWrite::Enable), Err(AuthRefusal::AlreadyEnabled));
    assert_eq!(auth.role(GUEST), Ok(Permissions::everything()));
    assert_eq!(auth.role_names(), [GUEST, ROOT]);
}

#[test]
fn an_existing_guest_keeps_its_rights_when_auth_is_switched_on() {
    let mut auth = Auth::default();
    put(&mut auth, user(ROOT, Some("h"))).unwrap();
    create_role(&mut auth, GUEST, patterns(Some(&["/open"]), None)).unwrap();
    auth.apply(&AuthWrite::Enable).outcome.unwrap();
    assert_eq!(auth.role(GUEST).unwrap().read, list(&["/open"]));
}

#[test]
fn roles_are_created_once_and_root_is_built_in() {
    let mut auth = Auth::default();
    assert_eq!(shown(create_role(&mut auth, "r", patterns(None, Some(&["/b", "/a"])))), (None, list(&["/b", "/a"])));
    assert_eq!(create_role(&mut auth, "r", patterns(None, None)), Err(AuthRefusal::RoleExists("r".to_owned())));
    assert_eq!(create_role(&mut auth, ROOT, patterns(None, None)), Err(AuthRefusal::RootRole));
    assert_eq!(update_role(&mut auth, ROOT, None, None), Err(AuthRefusal::RootRole));
    assert_eq!(auth.apply(&AuthWrite::DeleteRole(ROOT)).outcome, Err(AuthRefusal::RootRole));
    assert_eq!(auth.apply(&AuthWrite::DeleteRole("r")).outcome, Ok(AuthDone::Quiet));
    assert_eq!(auth.apply(&AuthWrite::DeleteRole("r")).outcome, Err(AuthRefusal::NoRoleToDelete("r".to_owned())));
    assert_eq!(auth.role("r"), Err(AuthRefusal::NoRole("r".to_owned())));
}

#[test]
fn permissions_are_granted_and_revoked() {
    let mut auth = Auth::default();
    let some = |read: &[&'static str], write: &[&'static str]| Some(patterns(Some(read), Some(write)));
    assert_eq!(update_role(&mut auth, "r", some(&["/a"], &[]), None), Err(AuthRefusal::NoRole("r".to_owned())));
    create_role(&mut auth, "r", patterns(None, None)).unwrap();
    let granted = shown(update_role(&mut auth, "r", some(&["/x/*"], &["/y", "/x/*"]), None));
    assert_eq!(granted, (list(&["/x/*"]), list(&["/x/*", "/y"])), "sorted");
    for (kind, grant) in [("read", some(&["/x/*"], &[])), ("write", some(&[], &["/x/*"]))] {
        let duplicate = AuthRefusal::DuplicatePermission { kind, pattern: "/x/*".to_owned() };
        assert_eq!(update_role(&mut auth, "r", grant, None), Err(duplicate));
    }
    let revoked = shown(update_role(&mut auth, "r", None, some(&["/x/*", "/nope"], &[])));
    assert_eq!(revoked, (list(&[]), list(&["/x/*", "/y"])));
    assert_eq!(update_role(&mut auth, "r", None, some(&["/nope"], &[])), Err(AuthRefusal::RoleUnchanged));
}

#[test]
fn a_revoke_of_nothing_turns_null_into_a_list_once() {
    let mut auth = Auth::default();
    create_role(&mut auth, "r", patterns(None, None)).unwrap();
    let revoke = || Some(patterns(Some(&["/nope"]), None));
    assert_eq!(shown(update_role(&mut auth, "r", None, revoke())), (list(&[]), list(&[])));
    assert_eq!(update_role(&mut auth, "r", None, revoke()), Err(AuthRefusal::RoleUnchanged));
}

#[test]
fn rights_come_from_roles_and_missing_roles_give_none() {
    let mut auth = enabled();
    let (read, write) = (Access { write: false, recursive: false }, Access { write: true, recursive: false });
    let tree = Access { write: false, recursive: true };
    create_role(&mut auth, "rw", patterns(Some(&["/p/*"]), Some(&["/p/w"]))).unwrap();
    put(&mut auth, UserChange { roles: Some(vec!["gone", "rw"]), ..user("al", Some("h")) }).unwrap();
    let al = Some("al");
    assert!(auth.allows(al, b"/p/x", read) && auth.allows(al, b"/p/w", write) && auth.allows(al, b"/p/x", tree));
    assert!(!auth.allows(al, b"/p", read), "a pattern of what is below a directory is not the directory");
    assert!(!auth.allows(al, b"/p/x", write) && !auth.allows(al, b"/q", read) && !auth.allows(al, b"", read));
    assert!(!auth.allows(al, b"/p/w", Access { write: true, recursive: true }), "an exact pattern is no tree");
    assert!(!auth.allows(Some("nobody"), b"/p/x", read) && !auth.is_root("nobody") && !auth.is_root("al"));
    assert!(auth.allows(Some(ROOT), b"", Access { write: true, recursive: true }));
    put(&mut auth, UserChange { grant: vec![ROOT], ..user("al", None) }).unwrap();
    assert!(auth.is_root("al") && auth.allows(al, b"/q", write));
}

#[test]
fn guests_have_the_role_guest_and_recursion_is_not_looked_at() {
    let mut auth = enabled();
    let access = |recursive| Access { write: false, recursive };
    assert!(!auth.allows(None, b"/a", access(false)), "there is no role guest");
    create_role(&mut auth, GUEST, patterns(Some(&["/a"]), None)).unwrap();
    assert!(auth.allows(None, b"/a", access(false)) && auth.allows(None, b"/a", access(true)));
    assert!(!auth.allows(None, b"/b", access(false)));
    assert!(!auth.allows(None, b"/a", Access { write: true, recursive: false }));
}

#[test]
fn the_store_takes_an_index_per_write_and_four_for_the_first() {
    let mut auth = Auth::default();
    let mut steps = |write| auth.apply(&write).steps;
    assert_eq!(steps(AuthWrite::Enable), 0, "refused before the store is asked");
    assert_eq!(steps(AuthWrite::PutUser(user("al", None))), 0);
    assert_eq!(steps(AuthWrite::DeleteUser("al")), 4, "refused by the store, which was prepared for it");
    assert_eq!(steps(AuthWrite::DeleteUser("al")), 0);
    assert_eq!(steps(AuthWrite::PutUser(user(ROOT, Some("h")))), 1);
    assert_eq!(steps(AuthWrite::Enable), 2, "role guest, and the switch");
    assert_eq!(steps(AuthWrite::Disable), 1);
    assert_eq!(steps(AuthWrite::Enable), 1);
    assert_eq!(steps(AuthWrite::DeleteRole(GUEST)), 1);
}

#[test]
fn every_write_makes_earlier_verdicts_stale() {
    let mut auth = Auth::default();
    let before = auth.version();
    put(&mut auth, user("al", Some("h"))).unwrap();
    assert_ne!(auth.version(), before);
}

#[test]
fn a_snapshot_restores_the_state() {
    let mut auth = enabled();
    create_role(&mut auth, "r", patterns(None, Some(&["/a"]))).unwrap();
    put(&mut auth, UserChange { roles: Some(vec!["r"]), ..user("al", Some("h")) }).unwrap();
    let mut bytes = Vec::new();
    auth.write_items(&mut bytes);
    let mut restored = Auth { version: auth.version, ..Auth::default() };
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let length = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()) as usize;
        let (key, value) = (length(0), length(4));
        assert!(restored.read_item(&rest[8..8 + key], &rest[8 + key..8 + key + value]).unwrap());
        rest = &rest[8 + key + value..];
    }
    assert_eq!(restored, auth);
    assert!(!restored.read_item(&[ItemClass::Node as u8], b"").unwrap());
    assert!(restored.read_item(&[ItemClass::User as u8], b"\xff").is_err());
    let mut untouched = Vec::new();
    Auth::default().write_items(&mut untouched);
    assert!(untouched.is_empty());
}

#[test]
fn empty_patterns_cover_nothing_and_a_star_everything() {
    assert!(!covers(b"", b"") && !covers_below(b"", b""));
    assert!(covers(b"*", b"") && covers(b"*", b"/a") && covers_below(b"*", b"/a"));
    assert!(covers(b"/a*", b"/ab") && !covers(b"/a/*", b"/a") && !covers(b"/a*b", b"/axb"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The matcher against the definition, written as a regular expression would have it.
    #[test]
    fn patterns_mean_equal_or_prefix(pattern in "[/ab*]{0,6}", key in "[/ab*]{0,6}") {
        let (p, k) = (pattern.as_bytes(), key.as_bytes());
        let star = pattern.ends_with('*');
        let expected = if star { key.starts_with(&pattern[..pattern.len() - 1]) } else { !p.is_empty() && p == k };
        prop_assert_eq!(covers(p, k), expected);
        prop_assert_eq!(covers_below(p, k), star && expected);
    }

    /// Who may do something to a tree may do it to every key in it.
    #[test]
    fn a_right_to_a_tree_is_a_right_to_what_is_below(pattern in "[/ab*]{0,5}", key in "[/ab]{0,4}", below in "[/ab]{0,4}") {
        if covers_below(pattern.as_bytes(), key.as_bytes()) {
            let deeper = format!("{key}{below}");
            prop_assert!(covers(pattern.as_bytes(), deeper.as_bytes()));
            prop_assert!(covers_below(pattern.as_bytes(), deeper.as_bytes()));
        }
    }

    /// Granting and revoking the same patterns leaves the other patterns alone.
    #[test]
    fn granting_and_revoking_cancel(old in proptest::collection::btree_set("/[a-c]", 0..3), new in "/[d-f]") {
        let mut auth = Auth::default();
        let old: Vec<&str> = old.iter().map(String::as_str).collect();
        create_role(&mut auth, "r", patterns(Some(&old), Some(&[]))).unwrap();
        let before = auth.role("r").unwrap();
        let change = || Some(patterns(Some(&[&new]), None));
        update_role(&mut auth, "r", change(), None).unwrap();
        let read = Access { write: false, recursive: false };
        prop_assert!(auth.role("r").unwrap().allow(new.as_bytes(), read));
        update_role(&mut auth, "r", None, change()).unwrap();
        prop_assert_eq!(auth.role("r").unwrap(), before);
    }
}
