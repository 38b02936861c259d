//! `/v2/keys`: request to command or query, outcome to JSON.
//!
//! Owns: the parameters, the order in which they are checked, and the shape of answers. Headers and waiting are the
//! shell's; what a write does is the store's.
//!
//! Always holds:
//! 1. A request that was refused here never reaches the store.
//! 2. A plain GET is parsed without allocating.
//! 3. Rendering does not recurse: the depth of a tree costs no stack.

use ringd_storage::ids::{EtcdIndex, UnixNanos};
use ringd_storage::payload::{KeyWrite, WriteMethod};

use super::error::{ApiError, ErrorCode};
use super::json;
use super::method::Method;
use super::params::{self, FORM_BYTES_MAX, Piece};
use crate::core::store::{Event, NodeRef, NodeView};

/// What a request to `/v2/keys` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysRequest<'a> {
    /// Read a node.
    Get {
        /// The key.
        path: &'a [u8],
        /// The whole tree below, not one level.
        recursive: bool,
        /// Children by name.
        sorted: bool,
        /// Linearizable.
        quorum: bool,
    },
    /// Wait for an event.
    Watch {
        /// The key.
        path: &'a [u8],
        /// Events below count too.
        recursive: bool,
        /// More than one event.
        stream: bool,
        /// The first index of interest; zero means whatever comes next.
        wait_index: EtcdIndex,
    },
    /// Change something.
    Write {
        /// The command.
        write: KeyWrite<'a>,
        /// Answer a success with its action only.
        no_value_on_success: bool,
    },
}

/// The parameters that mean something. The numbers are places in [`Params`].
#[derive(Clone, Copy)]
enum Name {
    Value,
    Ttl,
    Dir,
    PrevExist,
    PrevValue,
    PrevIndex,
    Refresh,
    NoValueOnSuccess,
    Recursive,
    Sorted,
    Quorum,
    Wait,
    Stream,
    WaitIndex,
}

const NAMES: usize = Name::WaitIndex as usize + 1;

impl Name {
    fn of(text: &[u8]) -> Option<Self> {
        Some(match text {
            b"value" => Self::Value,
            b"ttl" => Self::Ttl,
            b"dir" => Self::Dir,
            b"prevExist" => Self::PrevExist,
            b"prevValue" => Self::PrevValue,
            b"prevIndex" => Self::PrevIndex,
            b"refresh" => Self::Refresh,
            b"noValueOnSuccess" => Self::NoValueOnSuccess,
            b"recursive" => Self::Recursive,
            b"sorted" => Self::Sorted,
            b"quorum" => Self::Quorum,
            b"wait" => Self::Wait,
            b"stream" => Self::Stream,
            b"waitIndex" => Self::WaitIndex,
            _ => return None,
        })
    }
}

/// The first value of each parameter.
#[derive(Default)]
struct Pieces<'a>([Option<Piece<'a>>; NAMES]);

impl<'a> Pieces<'a> {
    fn read(&mut self, text: &'a [u8], decoded: &mut Vec<u8>) -> Result<(), ApiError> {
        params::walk_pairs(text, decoded, |name, value| {
            if let Some(name) = Name::of(name) {
                self.0[name as usize].get_or_insert(value);
            }
        })
        .map_err(|words| ApiError::request(ErrorCode::InvalidForm, words))
    }
}

/// [`Pieces`], once decoding has come to its end.
struct Params<'a> {
    pieces: Pieces<'a>,
    decoded: &'a [u8],
}

impl<'a> Params<'a> {
    fn text(&self, name: Name) -> Option<&'a [u8]> {
        self.pieces.0[name as usize].map(|piece| piece.text(self.decoded))
    }

    fn flag(&self, name: Name, quoted_name: &str) -> Result<bool, ApiError> {
        self.text(name).map_or(Ok(false), |text| {
            params::parse_bool(text).ok_or_else(|| invalid(ErrorCode::InvalidField, quoted_name))
        })
    }

    fn index(&self, name: Name, quoted_name: &str) -> Result<EtcdIndex, ApiError> {
        self.text(name).map_or(Ok(EtcdIndex::ZERO), |text| {
            let number = params::parse_u64(text).ok_or_else(|| invalid(ErrorCode::IndexNotANumber, quoted_name))?;
            Ok(EtcdIndex::new(number))
        })
    }
}

fn invalid(code: ErrorCode, name: &str) -> ApiError {
    ApiError::request(code, format!("invalid value for {name}"))
}

/// Reads a request to the key space.
///
/// `path` is the key as [`super::route::Route::Keys`] gives it, `query` the raw query, `body` the whole body (for PUT
/// and POST; others' bodies are ignored), `now` the clock that a TTL is counted from. `decoded` is working space to be
/// reused; the request may borrow from it.
///
/// The method must be one that keys allow; OPTIONS and others are read as GET.
///
/// # Errors
/// [`ApiError`] with index zero, in etcd's order of checks.
pub fn parse<'a>(
    method: Method,
    path: &'a [u8],
    query: &'a [u8],
    content_type: Option<&[u8]>,
    body: &'a [u8],
    now: UnixNanos,
    decoded: &'a mut Vec<u8>,
) -> Result<KeysRequest<'a>, ApiError> {
    if method == Method::Get && query.is_empty() {
        // Most reads: no parameter was given, so none needs a check.
        return Ok(KeysRequest::Get { path, recursive: false, sorted: false, quorum: false });
    }
    let has_form = matches!(method, Method::Put | Method::Post) && params::is_form(content_type)?;
    decoded.clear();
    let mut pieces = Pieces::default();
    if has_form {
        if body.len() > FORM_BYTES_MAX {
            return Err(ApiError::form_too_large());
        }
        pieces.read(body, decoded)?;
    }
    pieces.read(query, decoded)?;
    let params = Params { pieces, decoded };
    interpret(method, path, &params, now)
}

/// The checks, in etcd's order: all of them, whatever the method.
fn interpret<'a>(
    method: Method,
    path: &'a [u8],
    params: &Params<'a>,
    now: UnixNanos,
) -> Result<KeysRequest<'a>, ApiError> {
    let prev_index = params.index(Name::PrevIndex, "\"prevIndex\"")?;
    let wait_index = params.index(Name::WaitIndex, "\"waitIndex\"")?;
    let recursive = params.flag(Name::Recursive, "\"recursive\"")?;
    let sorted = params.flag(Name::Sorted, "\"sorted\"")?;
    let wait = params.flag(Name::Wait, "\"wait\"")?;
    let dir = params.flag(Name::Dir, "\"dir\"")?;
    let quorum = params.flag(Name::Quorum, "\"quorum\"")?;
    let stream = params.flag(Name::Stream, "\"stream\"")?;
    if wait && method != Method::Get {
        return Err(ApiError::request(ErrorCode::InvalidField, "\"wait\" can only be used with GET requests"));
    }
    let prev_value = params.text(Name::PrevValue);
    if prev_value.is_some_and(<[u8]>::is_empty) {
        return Err(ApiError::request(ErrorCode::PrevValueRequired, "\"prevValue\" cannot be empty"));
    }
    let no_value_on_success = params.flag(Name::NoValueOnSuccess, "\"noValueOnSuccess\"")?;
    let ttl = match params.text(Name::Ttl) {
        None | Some(b"") => None,
        Some(text) => Some(params::parse_u64(text).ok_or_else(|| invalid(ErrorCode::TtlNotANumber, "\"ttl\""))?),
    };
    let prev_exist = match params.text(Name::PrevExist) {
        None => None,
        Some(_) => Some(params.flag(Name::PrevExist, "prevExist")?),
    };
    let refresh = params.flag(Name::Refresh, "refresh")?;
    let value = params.text(Name::Value).unwrap_or_default();
    if refresh && !value.is_empty() {
        return Err(ApiError::request(ErrorCode::RefreshValue, "A value was provided on a refresh"));
    }
    if refresh && ttl.is_none() {
        return Err(ApiError::request(ErrorCode::RefreshTtlRequired, "No TTL value set"));
    }
    let write = |method, write: KeyWrite<'a>| KeysRequest::Write {
        write: KeyWrite { method, path, ..write },
        no_value_on_success,
    };
    let nothing = KeyWrite {
        method: WriteMethod::Put,
        path,
        value: b"",
        dir,
        recursive: false,
        refresh: false,
        prev_exist: None,
        prev_value: None,
        prev_index: EtcdIndex::ZERO,
        expires_at: None,
    };
    let expires_at = ttl.map(|seconds| now.plus_seconds(seconds));
    Ok(match method {
        Method::Put => write(
            WriteMethod::Put,
            KeyWrite { value, refresh, prev_exist, prev_value, prev_index, expires_at, ..nothing },
        ),
        Method::Post => write(WriteMethod::Post, KeyWrite { value, expires_at, ..nothing }),
        Method::Delete => write(WriteMethod::Delete, KeyWrite { recursive, prev_value, prev_index, ..nothing }),
        Method::Get | Method::Head | Method::Options | Method::Other => {
            if wait && !quorum {
                KeysRequest::Watch { path, recursive, stream, wait_index }
            } else {
                KeysRequest::Get { path, recursive, sorted, quorum }
            }
        }
    })
}

/// The HTTP status of a successful write. (A watch always answers 200.)
#[must_use]
pub fn event_status(event: &Event) -> u16 {
    if event.is_created() { 201 } else { 200 }
}

/// Appends the body for an event: the answer to a write, or one line of a watch. `no_value` shows the action only
/// (removals are shown in full all the same). A `ttl` is what was left when the event was made.
pub fn render_event(out: &mut Vec<u8>, event: &Event, no_value: bool) {
    out.extend_from_slice(b"{\"action\":\"");
    out.extend_from_slice(event.action.name().as_bytes());
    out.push(b'"');
    if !no_value || event.action.removes() {
        out.extend_from_slice(b",\"node\":");
        push_node(out, &event.node(), event.at);
        if let Some(prev) = event.prev() {
            out.extend_from_slice(b",\"prevNode\":");
            push_node(out, &prev, event.at);
        }
    }
    out.extend_from_slice(b"}\n");
}

/// How much of a node a GET shows.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// All levels of children instead of one.
    pub recursive: bool,
    /// In the order of their names.
    pub sorted: bool,
    /// Give up when the body holds more bytes than this; one node beyond it may have been rendered.
    pub bytes_max: usize,
}

/// Appends the body for a GET. False when it would be larger than `extent.bytes_max`: then a part of it was appended.
#[must_use]
pub fn render_get(out: &mut Vec<u8>, node: &NodeRef<'_>, extent: Extent, now: UnixNanos) -> bool {
    let end_max = out.len().saturating_add(extent.bytes_max);
    out.extend_from_slice(b"{\"action\":\"get\",\"node\":");
    let view = node.view();
    if !fits(out, &view, end_max) {
        return false;
    }
    open_node(out, &view, now);
    if node.is_dir() && !push_children(out, *node, extent, end_max, now) {
        return false;
    }
    close_node(out, &view);
    out.extend_from_slice(b"}\n");
    out.len() <= end_max
}

/// Whether a node may be rendered next, by its size before anything in it is escaped.
#[inline]
fn fits(out: &[u8], node: &NodeView<'_>, end_max: usize) -> bool {
    out.len() + node.value.map_or(0, <[u8]>::len) <= end_max
}

/// A directory whose children are being written.
struct Level<'s> {
    dir: NodeView<'s>,
    children: Box<dyn Iterator<Item = NodeRef<'s>> + 's>,
    is_empty: bool,
}

impl<'s> Level<'s> {
    fn of(dir: NodeRef<'s>, sorted: bool) -> Self {
        let children: Box<dyn Iterator<Item = NodeRef<'s>>> =
            if sorted { Box::new(dir.sorted_children().into_iter()) } else { Box::new(dir.children()) };
        Self { dir: dir.view(), children, is_empty: true }
    }
}

/// Appends the `nodes` member, if there is a visible child. False when `out` would grow beyond `end_max`.
fn push_children(out: &mut Vec<u8>, top: NodeRef<'_>, extent: Extent, end_max: usize, now: UnixNanos) -> bool {
    let Extent { recursive, sorted, .. } = extent;
    let mut levels = vec![Level::of(top, sorted)];
    while let Some(level) = levels.last_mut() {
        let Some(child) = level.children.by_ref().find(|child| !child.is_hidden()) else {
            if !level.is_empty {
                out.push(b']');
            }
            let dir = level.dir;
            levels.pop();
            if !levels.is_empty() {
                close_node(out, &dir);
            }
            continue;
        };
        out.extend_from_slice(if level.is_empty { b",\"nodes\":[" } else { b"," });
        level.is_empty = false;
        let view = child.view();
        if !fits(out, &view, end_max) {
            return false;
        }
        open_node(out, &view, now);
        if recursive && view.dir {
            levels.push(Level::of(child, sorted));
        } else {
            close_node(out, &view);
        }
    }
    true
}

fn push_node(out: &mut Vec<u8>, node: &NodeView<'_>, now: UnixNanos) {
    open_node(out, node, now);
    close_node(out, node);
}

/// Appends a node up to where `nodes` would come. The root has no key and no indexes.
fn open_node(out: &mut Vec<u8>, node: &NodeView<'_>, now: UnixNanos) {
    if node.key == b"/" {
        out.extend_from_slice(b"{\"dir\":true");
        return;
    }
    out.extend_from_slice(b"{\"key\":");
    json::push_string(out, node.key);
    if let Some(value) = node.value {
        out.extend_from_slice(b",\"value\":");
        json::push_string(out, value);
    }
    if node.dir {
        out.extend_from_slice(b",\"dir\":true");
    }
    if let Some(expires_at) = node.expires_at {
        out.extend_from_slice(b",\"expiration\":");
        json::push_time(out, expires_at);
        let ttl = ttl_seconds(expires_at, now);
        if ttl != 0 {
            out.extend_from_slice(b",\"ttl\":");
            json::push_i64(out, ttl);
        }
    }
}

fn close_node(out: &mut Vec<u8>, node: &NodeView<'_>) {
    if node.key != b"/" {
        out.extend_from_slice(b",\"modifiedIndex\":");
        json::push_u64(out, node.modified.get());
        out.extend_from_slice(b",\"createdIndex\":");
        json::push_u64(out, node.created.get());
    }
    out.push(b'}');
}

/// Seconds until the deadline, rounded up; when it has passed, seconds since, rounded down, negative (etcd).
fn ttl_seconds(expires_at: UnixNanos, now: UnixNanos) -> i64 {
    const NANOS: u64 = 1_000_000_000;
    let ahead = expires_at.nanos_since(now).div_ceil(NANOS) as i64;
    let behind = (now.nanos_since(expires_at) / NANOS) as i64;
    ahead - behind
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::error::render_error;

    const FORM: Option<&[u8]> = Some(b"application/x-www-form-urlencoded");
    const NOW: UnixNanos = UnixNanos::new(1_700_000_000_000_000_000);

    fn refusal(method: Method, query: &str, body: &str) -> String {
        let mut decoded = Vec::new();
        let error = parse(method, b"/k", query.as_bytes(), FORM, body.as_bytes(), NOW, &mut decoded).unwrap_err();
        assert_eq!((error.status(), error.index), (400, EtcdIndex::ZERO));
        format!("{} {}", error.code as u16, String::from_utf8(error.cause).unwrap())
    }

    fn write<'a>(
        method: Method,
        query: &'a str,
        content_type: Option<&[u8]>,
        body: &'a [u8],
        decoded: &'a mut Vec<u8>,
    ) -> (KeyWrite<'a>, bool) {
        match parse(method, b"/k", query.as_bytes(), content_type, body, NOW, decoded).unwrap() {
            KeysRequest::Write { write, no_value_on_success } => (write, no_value_on_success),
            other => panic!("not a write: {other:?}"),
        }
    }

    #[test]
    fn the_first_failing_check_is_reported() {
        let expected = [
            ("prevIndex=x", "203 invalid value for \"prevIndex\""),
            ("waitIndex=", "203 invalid value for \"waitIndex\""),
            ("recursive=2", "209 invalid value for \"recursive\""),
            ("sorted=", "209 invalid value for \"sorted\""),
            ("wait=maybe", "209 invalid value for \"wait\""),
            ("dir=yes", "209 invalid value for \"dir\""),
            ("quorum=x", "209 invalid value for \"quorum\""),
            ("stream=x", "209 invalid value for \"stream\""),
            ("prevValue=", "201 \"prevValue\" cannot be empty"),
            ("noValueOnSuccess=", "209 invalid value for \"noValueOnSuccess\""),
            ("ttl=1.5", "202 invalid value for \"ttl\""),
            ("prevExist=", "209 invalid value for prevExist"),
            ("refresh=x", "209 invalid value for refresh"),
        ];
        let mut query = String::new();
        for (bad, words) in expected.iter().rev() {
            assert_eq!(refusal(Method::Get, bad, ""), *words);
            query = format!("{bad}&{query}");
            assert_eq!(refusal(Method::Get, &query, ""), *words);
        }
        assert_eq!(refusal(Method::Put, "wait=1&prevValue=", ""), "209 \"wait\" can only be used with GET requests");
        assert_eq!(refusal(Method::Put, "refresh=true&value=x", ""), "211 A value was provided on a refresh");
        assert_eq!(refusal(Method::Put, "refresh=true&ttl=", ""), "212 No TTL value set");
        assert_eq!(refusal(Method::Put, "x=%zz", "value=a;b"), "210 invalid semicolon separator in query");
        assert_eq!(refusal(Method::Delete, "x=%zz", "value=a;b"), "210 invalid URL escape \"%zz\"");
    }

    #[test]
    fn the_body_wins_over_the_query_and_the_first_value_over_the_next() {
        let mut decoded = Vec::new();
        let (got, quiet) = write(
            Method::Put,
            "value=q&ttl=5&noValueOnSuccess=1",
            FORM,
            b"value=a%2Bb+c&value=second&ttl=",
            &mut decoded,
        );
        assert_eq!((got.value, got.expires_at, quiet), (&b"a+b c"[..], None, true));
        let (got, _) = write(Method::Put, "value=q&ttl=5", Some(b"application/json"), b"value=b", &mut decoded);
        assert_eq!((got.value, got.expires_at), (&b"q"[..], Some(NOW.plus_seconds(5))));
        let (got, _) = write(Method::Delete, "recursive=1&prevValue=x", FORM, b"prevValue=y", &mut decoded);
        assert_eq!((got.prev_value, got.recursive, got.method), (Some(&b"x"[..]), true, WriteMethod::Delete));
    }

    #[test]
    fn a_form_above_ten_megabytes_is_refused() {
        let body = vec![b'a'; FORM_BYTES_MAX + 1];
        let mut decoded = Vec::new();
        let error = parse(Method::Put, b"/k", b"", FORM, &body, NOW, &mut decoded).unwrap_err();
        assert_eq!(error, ApiError::form_too_large());
        assert!(parse(Method::Put, b"/k", b"", None, &body, NOW, &mut decoded).is_ok(), "not a form, not read");
        let mut body = Vec::new();
        render_error(&mut body, &error);
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "{\"errorCode\":210,\"message\":\"Invalid POST form\",\"cause\":\"http: POST too large\",\"index\":0}\n"
        );
    }

    #[test]
    fn waiting_with_quorum_is_a_quorum_read() {
        let mut decoded = Vec::new();
        let parsed = parse(Method::Get, b"/k", b"wait=true&quorum=true", None, b"", NOW, &mut decoded).unwrap();
        assert_eq!(parsed, KeysRequest::Get { path: b"/k", recursive: false, sorted: false, quorum: true });
        let parsed = parse(Method::Get, b"/k", b"wait=t&stream=1&waitIndex=7", None, b"", NOW, &mut decoded).unwrap();
        let wait_index = EtcdIndex::new(7);
        assert_eq!(parsed, KeysRequest::Watch { path: b"/k", recursive: false, stream: true, wait_index });
    }

    #[test]
    fn a_plain_get_allocates_nothing() {
        let mut decoded = Vec::new();
        parse(Method::Get, b"/k", b"recursive=false&sorted=true", None, b"", NOW, &mut decoded).unwrap();
        assert_eq!(decoded.capacity(), 0);
    }

    #[test]
    fn ttls_round_up_ahead_and_down_behind() {
        let at = |nanos| UnixNanos::new(nanos);
        assert_eq!(ttl_seconds(at(10_000_000_000), at(0)), 10);
        assert_eq!(ttl_seconds(at(10_000_000_001), at(0)), 11);
        assert_eq!(ttl_seconds(at(5), at(5)), 0);
        assert_eq!(ttl_seconds(at(0), at(999_999_999)), 0);
        assert_eq!(ttl_seconds(at(0), at(1_000_000_000)), -1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(
            method in 0..5_usize,
            query in proptest::collection::vec(any::<u8>(), 0..48),
            body in proptest::collection::vec(any::<u8>(), 0..48),
            content_type in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..24)),
        ) {
            let method = [Method::Get, Method::Head, Method::Put, Method::Post, Method::Delete][method];
            let mut decoded = Vec::new();
            let parsed = parse(method, b"/k", &query, content_type.as_deref(), &body, NOW, &mut decoded);
            if let Err(error) = parsed {
                prop_assert_eq!((error.status(), error.index), (400, EtcdIndex::ZERO));
            }
        }

        /// Whatever the escapes used, the value comes back, from the query as from a form.
        #[test]
        fn an_encoded_value_comes_back(
            value in proptest::collection::vec(any::<u8>(), 0..48),
            plain in proptest::collection::vec(any::<bool>(), 48),
        ) {
            let mut encoded = String::from("x=1&value=");
            for (byte, plain) in value.iter().zip(plain) {
                match byte {
                    b' ' if plain => encoded.push('+'),
                    b'a'..=b'z' | b'0'..=b'9' | b'/' | b'=' if plain => encoded.push(*byte as char),
                    _ => encoded.push_str(&format!("%{byte:02x}")),
                }
            }
            let mut decoded = Vec::new();
            prop_assert_eq!(write(Method::Put, &encoded, None, b"", &mut decoded).0.value, &value[..]);
            prop_assert_eq!(write(Method::Post, "", FORM, encoded.as_bytes(), &mut decoded).0.value, &value[..]);
        }
    }
}
