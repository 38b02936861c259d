//! Targets and forms: the router and the parameter decoder against a naive reading of the same bytes.
//!
//! An input is a target, a line feed, and a body.

use ringd::api::error::ErrorCode;
use ringd::api::keys::{KeysRequest, parse};
use ringd::api::method::Method;
use ringd::api::route::{Route, Routed, route};
use ringd_storage::ids::UnixNanos;

use crate::run;

const FORM: &[u8] = b"application/x-www-form-urlencoded";
const NOW: UnixNanos = UnixNanos::new(1_700_000_000_000_000_000);

const WORDS: &[&[u8]] = &[
    b"/v2/keys/",
    b"/v2/members/",
    b"/v2/auth/users/",
    b"http://h:1",
    b"/../",
    b"/./",
    b"//",
    b"%2e%2e",
    b"%2F",
    b"%00",
    b"%",
    b"%zz",
    b"+",
    b"?",
    b"&",
    b";",
    b"=",
    b"\n",
    b"value=",
    b"&value=%C3%A4",
    b"&prevValue=a+b",
    b"&ttl=9",
    b"&ttl=18446744073709551616",
    b"&dir=true",
    b"&prevExist=false",
    b"&prevIndex=1",
    b"&wait=true&stream=1",
    b"&waitIndex=-1",
    b"&recursive=T",
    b"&refresh=1",
    b"\xff",
];

/// Percent escapes, and plus signs if they mean spaces; `None` when an escape is broken.
fn decode(text: &[u8], plus_is_space: bool) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digits = [*bytes.next()?, *bytes.next()?];
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b'+' if plus_is_space => b' ',
            _ => byte,
        });
    }
    Some(out)
}

/// Names and values in order; `None` when a pair is malformed.
fn pairs(text: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let parts = text.split(|&byte| byte == b'&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let mut halves = part.splitn(2, |&byte| byte == b'=');
            let (name, value) = (halves.next()?, halves.next().unwrap_or_default());
            (!part.contains(&b';')).then_some((decode(name, true)?, decode(value, true)?))
        })
        .collect()
}

fn check_route(target: &[u8]) {
    let (mut fresh, mut dirty) = (Vec::new(), b"/v2/keys/left/over".to_vec());
    let Routed { route: found, query } = route(target, &mut fresh);
    assert_eq!(route(target, &mut dirty).route, found, "what the working space held before shows");
    if found == Route::BadTarget {
        return;
    }
    assert!(!target.iter().any(u8::is_ascii_control));
    let path_end = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
    assert_eq!(query, target.get(path_end + 1..).unwrap_or_default());
    match found {
        Route::Keys(key) => {
            let names: Vec<&[u8]> = key.split(|&byte| byte == b'/').collect();
            assert!(names[0].is_empty() && names.len() >= 2, "a key is an absolute path");
            let clean = |name: &&[u8]| !matches!(**name, [] | [b'.'] | [b'.', b'.']);
            assert!(key == b"/" || names[1..].iter().all(clean), "a key is clean");
            if target.starts_with(b"/") {
                let decoded = decode(&target[..path_end], false).expect("a routed path decodes");
                let rest = decoded.strip_prefix(b"/v2/keys").expect("where keys are");
                let rest = rest.strip_suffix(b"/").unwrap_or(rest);
                assert_eq!(rest, key.strip_suffix(b"/").unwrap_or(key));
            }
        }
        Route::Redirect(location) => {
            assert!(location.iter().all(|byte| byte.is_ascii() && !byte.is_ascii_control()));
            let again = route(&location, &mut dirty).route;
            assert!(!matches!(again, Route::Redirect(_) | Route::BadTarget), "{again:?}");
        }
        _ => {}
    }
}

fn check_form(method: Method, query: &[u8], body: &[u8]) {
    let (mut fresh, mut dirty) = (Vec::new(), vec![b'x'; 64]);
    let found = parse(method, b"/k", query, Some(FORM), body, NOW, &mut fresh);
    assert_eq!(parse(method, b"/k", query, Some(FORM), body, NOW, &mut dirty), found);
    let reads_body = matches!(method, Method::Put | Method::Post);
    let from_body = if reads_body { pairs(body) } else { Some(Vec::new()) };
    let model = from_body.zip(pairs(query)).map(|(mut body, query)| {
        body.extend(query);
        body
    });
    let Some(model) = model else {
        assert_eq!(found.expect_err("a malformed pair is refused").code, ErrorCode::InvalidForm);
        return;
    };
    let first = |name: &[u8]| model.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_slice());
    let is_true = |name: &[u8]| first(name).is_some_and(|text| [b't', b'T', b'1'].contains(&text[0]));
    match found {
        Err(error) => assert_ne!(error.code, ErrorCode::InvalidForm, "every pair is well formed"),
        Ok(KeysRequest::Write { write, .. }) => {
            assert_eq!(write.path, b"/k");
            if reads_body {
                assert_eq!(write.value, first(b"value").unwrap_or_default());
                let ttl = first(b"ttl").filter(|text| !text.is_empty());
                assert_eq!(write.expires_at.is_some(), ttl.is_some());
            }
            if method != Method::Post {
                assert_eq!(write.prev_value, first(b"prevValue"));
            }
            assert_eq!(write.dir, is_true(b"dir"));
        }
        Ok(KeysRequest::Watch { recursive, stream, .. }) => {
            assert!(method == Method::Get && is_true(b"wait") && !is_true(b"quorum"));
            assert_eq!((recursive, stream), (is_true(b"recursive"), is_true(b"stream")));
        }
        Ok(KeysRequest::Get { recursive, sorted, quorum, .. }) => {
            let expected = (is_true(b"recursive"), is_true(b"sorted"), is_true(b"quorum"));
            assert_eq!((recursive, sorted, quorum), expected);
        }
    }
}

#[test]
fn targets_and_forms_mean_what_a_naive_reading_says() {
    run("form", WORDS, |input, _| {
        let cut = input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len());
        let (target, body) = (&input[..cut], input.get(cut + 1..).unwrap_or_default());
        check_route(target);
        let query = target.iter().position(|&byte| byte == b'?').map_or(&b""[..], |at| &target[at + 1..]);
        for method in [Method::Get, Method::Put, Method::Post, Method::Delete] {
            check_form(method, query, body);
        }
    });
}
