//! How members that know only a URL find each other: etcd's discovery protocol on a v2 keys tree, as a state machine.
//!
//! Owns: which request comes next, what its answer means, etcd's texts. Touches: paths and JSON; no socket, no clock.
//!
//! The tree of a token: `_config/size` says how many members there will be; each member creates a key named after its id
//! (`prevExist=false`) that holds its `NAME=URL,...`; the first `size` of them, by creation, are the cluster.
//!
//! Must always hold:
//! - A member registers at most once, and only after it has seen that there is room.
//! - Only keys among the first `size` become members; all who ask get the same ones.
//! - Any bytes are an answer, an error, or a reason to ask again later.

use std::time::Duration;

use serde_json::Value;

/// Waits double up to 2^8 s, as in etcd.
const DOUBLINGS_MAX: u32 = 8;
/// etcd's error for a key that is there already.
const NODE_EXISTS: u64 = 105;
/// etcd's error for a watch from an index that is forgotten.
const INDEX_CLEARED: u64 = 401;
/// Larger clusters than this are a slip: raft is for a handful of members.
const SIZE_MAX: u64 = 1000;

/// One question to the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The method.
    pub method: &'static str,
    /// Path and query, escaped.
    pub target: String,
    /// A form, for PUT.
    pub form: Option<String>,
    /// It waits for an event, and so has no limit of time.
    pub waits: bool,
}

/// What came of a question.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// An answer.
    Answer {
        /// The HTTP status.
        status: u16,
        /// `X-Etcd-Index`, if it was there.
        etcd_index: Option<u64>,
        /// The body.
        body: &'a [u8],
    },
    /// None: no connection, a broken one, or no time left.
    Nothing,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask this, and come back with the outcome.
    Ask(Question),
    /// Wait, then ask.
    AskAfter(Duration, &'static str, Question),
    /// The members' `NAME=URL,...`, in the order of their registration.
    Found(Vec<String>),
}

/// Why there is no cluster to be had. The texts are etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// The size is no number, or no size.
    #[error("discovery: size key is bad")]
    BadSize,
    /// What answers is no keys API.
    #[error("discovery: bad discovery endpoint")]
    BadEndpoint,
    /// This member has registered before, and has lost its data since, or never got so far.
    #[error("discovery: found duplicate id")]
    DuplicateId,
    /// Two members have one name.
    #[error("discovery: found duplicate name")]
    DuplicateName,
    /// A member registered something that is no URL.
    #[error("discovery: invalid URL")]
    InvalidUrl,
    /// There are as many members as there should be, and this is none of them.
    #[error("discovery: cluster is full")]
    Full,
    /// The service refused.
    #[error("{0}")]
    Refused(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Size,
    Members,
    Registering,
    Waiting,
}

/// A discovery in progress.
#[derive(Debug)]
pub struct Discovery {
    /// `/v2/keys/TOKEN`, or whatever path the URL has.
    path: String,
    /// Who registers and as what; a proxy only looks.
    own: Option<(String, String)>,
    stage: Stage,
    size: usize,
    registered: bool,
    /// A registration was sent and its answer lost.
    may_be_registered: bool,
    retries: u32,
    notes: Vec<String>,
    told: Vec<String>,
}

struct Registered {
    name: String,
    value: String,
    created: u64,
}

impl Discovery {
    /// A member that joins: its id in hex, and what it registers.
    #[must_use]
    pub fn join(path: &str, id: &str, contents: &str) -> Self {
        Self::new(path, Some((id.to_owned(), contents.to_owned())))
    }

    /// A proxy that wants to know who the members are; it waits until there are enough.
    #[must_use]
    pub fn look(path: &str) -> Self {
        Self::new(path, None)
    }

    fn new(path: &str, own: Option<(String, String)>) -> Self {
        Self {
            path: path.to_owned(),
            own,
            stage: Stage::Size,
            size: 0,
            registered: false,
            may_be_registered: false,
            retries: 0,
            notes: Vec::new(),
            told: Vec::new(),
        }
    }

    /// The first question.
    #[must_use]
    pub fn begin(&self) -> Question {
        self.get("/_config/size")
    }

    /// Lines for the log since the last call.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Goes on with what came of the last question.
    ///
    /// # Errors
    /// [`DiscoveryError`] when asking again would not help.
    pub fn step(&mut self, outcome: Outcome<'_>) -> Result<Next, DiscoveryError> {
        let Outcome::Answer { status, etcd_index, body } = outcome else { return Ok(self.again()) };
        if status >= 500 {
            return Ok(self.again());
        }
        if self.stage == Stage::Waiting && body.trim_ascii().is_empty() {
            // The service was stopped while it was waiting with us.
            return Ok(self.again());
        }
        let answer: Value = serde_json::from_slice(body).map_err(|_| DiscoveryError::BadEndpoint)?;
        if let Some(code) = answer.get("errorCode").and_then(Value::as_u64) {
            return self.refused(code, &answer);
        }
        let node = answer.get("node").filter(|_| (200..300).contains(&status)).ok_or(DiscoveryError::BadEndpoint)?;
        self.retries = 0;
        match self.stage {
            Stage::Size => {
                let size = node.get("value").and_then(Value::as_str).and_then(|text| text.parse::<u64>().ok());
                let size = size.filter(|size| (1..=SIZE_MAX).contains(size)).ok_or(DiscoveryError::BadSize)?;
                self.size = usize::try_from(size).map_err(|_| DiscoveryError::BadSize)?;
                Ok(self.list())
            }
            Stage::Members => self.members(node, etcd_index),
            Stage::Registering => {
                self.registered = true;
                Ok(self.list())
            }
            // Whatever happened, the list tells.
            Stage::Waiting => Ok(self.list()),
        }
    }

    fn refused(&mut self, code: u64, answer: &Value) -> Result<Next, DiscoveryError> {
        match self.stage {
            Stage::Registering if code == NODE_EXISTS && !self.may_be_registered => Err(DiscoveryError::DuplicateId),
            // It may have been ours; the list tells.
            Stage::Registering if code == NODE_EXISTS => Ok(self.list()),
            Stage::Waiting if code == INDEX_CLEARED => Ok(self.list()),
            _ => {
                let text = |name| answer.get(name).and_then(Value::as_str).unwrap_or_default();
                let index = answer.get("index").and_then(Value::as_u64).unwrap_or_default();
                Err(DiscoveryError::Refused(format!("{code}: {} ({}) [{index}]", text("message"), text("cause"))))
            }
        }
    }

    /// The list of those who have registered.
    fn members(&mut self, node: &Value, etcd_index: Option<u64>) -> Result<Next, DiscoveryError> {
        let index = etcd_index.ok_or(DiscoveryError::BadEndpoint)?;
        let nodes = node.get("nodes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut found: Vec<Registered> = nodes.iter().filter_map(registered).collect();
        found.sort_by_key(|member| member.created);
        let own_place = self.own.as_ref().and_then(|(id, _)| found.iter().position(|member| member.name == *id));
        let is_member = own_place.is_some_and(|place| place < self.size);
        if !self.registered
            && let (Some((_, contents)), Some(place)) = (&self.own, own_place)
        {
            // Nobody but this process can have written it when it was not there before.
            if !self.may_be_registered || found[place].value != *contents {
                return Err(DiscoveryError::DuplicateId);
            }
            self.registered = true;
        }
        if self.own.is_some() && !is_member && found.len() >= self.size {
            return Err(DiscoveryError::Full);
        }
        if let (Some((id, contents)), false) = (&self.own, self.registered) {
            let target = format!("{}/{id}?prevExist=false", self.path);
            let mut form = "value=".to_owned();
            push_escaped(&mut form, contents);
            self.stage = Stage::Registering;
            return Ok(Next::Ask(Question { method: "PUT", target, form: Some(form), waits: false }));
        }
        found.truncate(self.size);
        self.tell(&found);
        if found.len() == self.size {
            return Ok(Next::Found(found.into_iter().map(|member| member.value).collect()));
        }
        self.stage = Stage::Waiting;
        let target = format!("{}?wait=true&recursive=true&waitIndex={}", self.path, index.saturating_add(1));
        Ok(Next::Ask(Question { method: "GET", target, form: None, waits: true }))
    }

    /// Says what is new.
    fn tell(&mut self, found: &[Registered]) {
        let before = self.told.len();
        for member in found {
            if self.told.contains(&member.name) {
                continue;
            }
            let is_own = self.own.as_ref().is_some_and(|(id, _)| *id == member.name);
            let who = if is_own { "self" } else { "peer" };
            self.notes.push(format!("found {who} {} in the cluster", member.name));
            self.told.push(member.name.clone());
        }
        if found.len() == self.size {
            self.notes.push(format!("found {} needed peer(s)", found.len()));
        } else if self.told.len() > before || before == 0 {
            self.notes.push(format!("found {} peer(s), waiting for {} more", found.len(), self.size - found.len()));
        }
    }

    fn get(&self, below: &str) -> Question {
        // Linearizable: who has registered must see itself, whichever member of the service answers.
        Question { method: "GET", target: format!("{}{below}?quorum=true", self.path), form: None, waits: false }
    }

    fn list(&mut self) -> Next {
        self.stage = Stage::Members;
        Next::Ask(self.get(""))
    }

    /// Begins again with the size, after a while that doubles.
    fn again(&mut self) -> Next {
        self.retries = (self.retries + 1).min(DOUBLINGS_MAX);
        self.may_be_registered |= self.stage == Stage::Registering;
        let what = if self.stage == Stage::Waiting { "waiting for other nodes" } else { "cluster status check" };
        self.stage = Stage::Size;
        Next::AskAfter(Duration::from_secs(1 << self.retries), what, self.begin())
    }
}

/// Form encoding: everything but what is plain everywhere.
fn push_escaped(form: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            form.push(char::from(byte));
        } else {
            form.push_str(&format!("%{byte:02X}"));
        }
    }
}

fn registered(node: &Value) -> Option<Registered> {
    let name = node.get("key")?.as_str()?.rsplit('/').next()?.to_owned();
    let value = node.get("value")?.as_str()?.to_owned();
    (name != "_config").then_some(Registered { name, value, created: node.get("createdIndex")?.as_u64()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "7325bc4bc235c272";
    const OWN: &str = "a=http://h:1,a=http://h:2";

    fn node(name: &str, value: &str, created: u64) -> String {
        format!(r#"{{"key":"/t/{name}","value":"{value}","modifiedIndex":{created},"createdIndex":{created}}}"#)
    }

    fn list(nodes: &[String]) -> String {
        format!(r#"{{"action":"get","node":{{"key":"/t","dir":true,"nodes":[{}]}}}}"#, nodes.join(","))
    }

    fn size(size: &str) -> String {
        format!(r#"{{"action":"get","node":{{"key":"/t/_config/size","value":"{size}"}}}}"#)
    }

    fn answer(body: &str) -> Outcome<'_> {
        Outcome::Answer { status: 200, etcd_index: Some(9), body: body.as_bytes() }
    }

    fn target(next: Result<Next, DiscoveryError>) -> String {
        match next {
            Ok(Next::Ask(question)) => question.target,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_member_checks_registers_and_waits_for_the_others() {
        let mut discovery = Discovery::join("/v2/keys/t", ID, OWN);
        assert_eq!(discovery.begin().target, "/v2/keys/t/_config/size?quorum=true");
        assert_eq!(target(discovery.step(answer(&size("2")))), "/v2/keys/t?quorum=true");
        let Ok(Next::Ask(put)) = discovery.step(answer(&list(&[]))) else { panic!() };
        assert_eq!((put.method, put.target), ("PUT", format!("/v2/keys/t/{ID}?prevExist=false")));
        assert_eq!(put.form.as_deref(), Some("value=a%3Dhttp%3A%2F%2Fh%3A1%2Ca%3Dhttp%3A%2F%2Fh%3A2"));
        let created = format!(r#"{{"action":"create","node":{}}}"#, node(ID, OWN, 5));
        assert_eq!(target(discovery.step(answer(&created))), "/v2/keys/t?quorum=true");
        let Ok(Next::Ask(watch)) = discovery.step(answer(&list(&[node(ID, OWN, 5)]))) else { panic!() };
        assert_eq!(watch.target, "/v2/keys/t?wait=true&recursive=true&waitIndex=10");
        assert!(watch.waits);
        assert_eq!(
            discovery.take_notes(),
            [format!("found self {ID} in the cluster"), "found 1 peer(s), waiting for 1 more".to_owned()]
        );
        let event = format!(r#"{{"action":"create","node":{}}}"#, node("8", "b=http://h:3", 7));
        assert_eq!(target(discovery.step(answer(&event))), "/v2/keys/t?quorum=true");
        // A late comer is not one of them, whatever the order of the list.
        let all = list(&[node("9", "c=http://h:4", 8), node("8", "b=http://h:3", 7), node(ID, OWN, 5)]);
        let found = discovery.step(answer(&all));
        assert_eq!(found, Ok(Next::Found(vec![OWN.to_owned(), "b=http://h:3".to_owned()])));
        assert_eq!(discovery.take_notes(), ["found peer 8 in the cluster", "found 2 needed peer(s)"]);
    }

    #[test]
    fn a_full_cluster_is_left_alone_and_a_proxy_learns_it() {
        let full = list(&[node("8", "b=http://h:3", 7), node("9", "c=http://h:4", 8)]);
        let mut late = Discovery::join("/t", ID, OWN);
        target(late.step(answer(&size("2"))));
        assert_eq!(late.step(answer(&full)), Err(DiscoveryError::Full));
        let mut proxy = Discovery::look("/t");
        target(proxy.step(answer(&size("1"))));
        assert_eq!(proxy.step(answer(&full)), Ok(Next::Found(vec!["b=http://h:3".to_owned()])));
        // Registered, but too late: two others were faster between the look and the registration.
        let mut beaten = Discovery::join("/t", ID, OWN);
        target(beaten.step(answer(&size("2"))));
        target(beaten.step(answer(&list(&[]))));
        target(beaten.step(answer(&format!(r#"{{"node":{}}}"#, node(ID, OWN, 12)))));
        let all = list(&[node("8", "b=http://h:3", 7), node("9", "c=http://h:4", 8), node(ID, OWN, 12)]);
        assert_eq!(beaten.step(answer(&all)), Err(DiscoveryError::Full));
    }

    #[test]
    fn who_has_registered_before_is_told_and_a_lost_answer_is_no_such_case() {
        let own_there = list(&[node(ID, OWN, 5)]);
        let mut again = Discovery::join("/t", ID, OWN);
        target(again.step(answer(&size("3"))));
        assert_eq!(again.step(answer(&own_there)), Err(DiscoveryError::DuplicateId));
        let exists = r#"{"errorCode":105,"message":"Key already exists","cause":"/t/7","index":3}"#;
        let mut raced = Discovery::join("/t", ID, OWN);
        target(raced.step(answer(&size("3"))));
        target(raced.step(answer(&list(&[]))));
        assert_eq!(raced.step(answer(exists)), Err(DiscoveryError::DuplicateId));
        let mut lost = Discovery::join("/t", ID, OWN);
        target(lost.step(answer(&size("1"))));
        target(lost.step(answer(&list(&[]))));
        assert!(matches!(lost.step(Outcome::Nothing), Ok(Next::AskAfter(..))));
        target(lost.step(answer(&size("1"))));
        assert_eq!(lost.step(answer(&own_there)), Ok(Next::Found(vec![OWN.to_owned()])));
    }

    #[test]
    fn refusals_are_final_and_silence_is_not() {
        let first = |body: &str| Discovery::join("/t", ID, OWN).step(answer(body)).unwrap_err().to_string();
        let missing = r#"{"errorCode":100,"message":"Key not found","cause":"/nosuch","index":4}"#;
        assert_eq!(first(missing), "100: Key not found (/nosuch) [4]");
        for bad in ["x", "0", "-1", "", "1.5", "99999999999999999999999"] {
            assert_eq!(first(&size(bad)), "discovery: size key is bad", "{bad}");
        }
        for bad in ["", "<html>", "[]", "{}", "{\"node\":{}"] {
            assert_eq!(first(bad), "discovery: bad discovery endpoint", "{bad}");
        }
        let mut silent = Discovery::look("/t");
        let mut waits = Vec::new();
        for outcome in [Outcome::Nothing, Outcome::Answer { status: 503, etcd_index: None, body: b"" }].repeat(5) {
            let Ok(Next::AskAfter(wait, what, question)) = silent.step(outcome) else { panic!() };
            assert_eq!((what, question), ("cluster status check", silent.begin()));
            waits.push(wait.as_secs());
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 256, 256]);
    }

    #[test]
    fn a_watch_that_breaks_or_comes_too_late_looks_again() {
        let mut waiting = Discovery::look("/t");
        target(waiting.step(answer(&size("1"))));
        assert!(target(waiting.step(answer(&list(&[])))).contains("waitIndex=10"));
        let cleared = r#"{"errorCode":401,"message":"The event in requested index is outdated and cleared","cause":"","index":9}"#;
        assert_eq!(target(waiting.step(answer(cleared))), "/t?quorum=true");
        target(waiting.step(answer(&list(&[]))));
        let Ok(Next::AskAfter(_, what, _)) = waiting.step(answer("\n")) else { panic!() };
        assert_eq!(what, "waiting for other nodes");
    }

    proptest! {
        /// Whoever asks, in whatever order the others arrive: the members are the first `size`, and all agree.
        #[test]
        fn everybody_finds_the_same_members(size_wanted in 1_usize..5, others in 0_usize..7, own in 0_usize..8) {
            let own = own.min(others);
            let value = |place: usize| format!("m{place}=http://h:{}", place + 1);
            let mut nodes: Vec<String> =
                (0..others).filter(|place| *place != own).map(|place| node(&place.to_string(), &value(place), place as u64 + 3)).collect();
            let before = nodes.len();
            let mut discovery = Discovery::join("/t", &own.to_string(), &value(own));
            let mut next = discovery.step(answer(&size(&size_wanted.to_string())));
            let mut rounds = 0;
            let result = loop {
                rounds += 1;
                prop_assert!(rounds < 40);
                let body = match next {
                    Ok(Next::Ask(question)) if question.method == "PUT" => {
                        nodes.push(node(&own.to_string(), &value(own), own as u64 + 3));
                        format!(r#"{{"node":{}}}"#, nodes[nodes.len() - 1])
                    }
                    Ok(Next::Ask(question)) if question.waits => {
                        // One more arrives.
                        let late = 100 + rounds;
                        nodes.insert(0, node(&late.to_string(), &value(late), late as u64));
                        format!(r#"{{"node":{}}}"#, nodes[0])
                    }
                    Ok(Next::Ask(_)) => list(&nodes),
                    other => break other,
                };
                next = discovery.step(answer(&body));
            };
            match result {
                Ok(Next::Found(members)) => {
                    prop_assert_eq!(members.len(), size_wanted);
                    prop_assert!(before < size_wanted && members.contains(&value(own)));
                }
                Err(error) => {
                    prop_assert_eq!(error, DiscoveryError::Full);
                    prop_assert!(before >= size_wanted);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn any_bytes_are_an_answer(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6), status in 100_u16..600) {
            let mut discovery = Discovery::join("/t", ID, OWN);
            for body in &bodies {
                if discovery.step(Outcome::Answer { status, etcd_index: None, body }).is_err() {
                    break;
                }
            }
        }
    }
}
