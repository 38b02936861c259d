//! The calls on `/v2/members`, and the health of one member.
//!
//! Owns: their requests and the reading of their answers. Touches: sockets through `client`. Always: a refusal by a
//! server carries the server's own words where etcd's client shows them, and otherwise the status.

use serde::Deserialize;

use crate::client::{Call, Client};
use crate::endpoint::Endpoint;
use crate::error::{ClientError, Failure};
use crate::http::Answer;
use crate::types::Member;

const MEMBERS: &str = "/v2/members";
const JSON: &str = "application/json";

/// `{"message":...}`, which this API and the one for users refuse with.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

/// The server's words about a refusal, or the status when it has none.
pub(crate) fn refusal(answer: &Answer) -> ClientError {
    match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(refusal) => ClientError::Refused(refusal.message),
        Err(_) => ClientError::UnexpectedStatus { status: answer.status },
    }
}

pub(crate) fn read<T: for<'de> Deserialize<'de>>(answer: &Answer) -> Result<T, ClientError> {
    serde_json::from_slice(&answer.body).map_err(|_| ClientError::InvalidJson)
}

fn peer_urls(urls: &[String]) -> Option<(&'static str, String)> {
    Some((JSON, serde_json::json!({ "peerURLs": urls }).to_string()))
}

impl Client {
    /// The members of the cluster.
    pub fn members(&mut self) -> Result<Vec<Member>, ClientError> {
        #[derive(Deserialize)]
        struct List {
            members: Vec<Member>,
        }
        let answer = self.call(&Call::get(MEMBERS))?;
        match answer.status {
            200 => read::<List>(&answer).map(|list| list.members),
            _ => Err(refusal(&answer)),
        }
    }

    /// The member that leads.
    pub fn leader(&mut self) -> Result<Member, ClientError> {
        let answer = self.call(&Call::get("/v2/members/leader"))?;
        match answer.status {
            200 => read(&answer),
            status => Err(ClientError::UnexpectedStatus { status }),
        }
    }

    /// Adds a member that is going to listen at `peer_url`; answers it with its new id.
    pub fn add_member(&mut self, peer_url: &str) -> Result<Member, ClientError> {
        let body = peer_urls(&[peer_url.to_owned()]);
        let call = Call { method: "POST", target: MEMBERS.into(), body, repeatable: false, waits: false };
        let answer = self.call(&call)?;
        match answer.status {
            201 => read(&answer),
            409 => Err(refusal(&answer)),
            status => Err(ClientError::UnexpectedStatus { status }),
        }
    }

    /// Removes the member `id` for good; one that is already removed is no error.
    pub fn remove_member(&mut self, id: &str) -> Result<(), ClientError> {
        let target = format!("{MEMBERS}/{}", crate::encode::escape_path(id));
        let call = Call { method: "DELETE", target, body: None, repeatable: true, waits: false };
        match self.call(&call)?.status {
            204 | 410 => Ok(()),
            status => Err(ClientError::UnexpectedStatus { status }),
        }
    }

    /// Changes where the member `id` listens for its peers.
    pub fn update_member(&mut self, id: &str, urls: &[String]) -> Result<(), ClientError> {
        let target = format!("{MEMBERS}/{}", crate::encode::escape_path(id));
        let call = Call { method: "PUT", target, body: peer_urls(urls), repeatable: true, waits: false };
        let answer = self.call(&call)?;
        match answer.status {
            204 => Ok(()),
            404 | 409 => Err(refusal(&answer)),
            status => Err(ClientError::UnexpectedStatus { status }),
        }
    }

    /// Whether the member at `endpoint` says that it is healthy.
    ///
    /// # Errors
    /// It did not answer, or with something else than a verdict.
    pub fn health(&mut self, endpoint: &Endpoint) -> Result<bool, Failure> {
        /// Old servers answered with a boolean.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Verdict {
            Word(String),
            Flag(bool),
        }
        #[derive(Deserialize)]
        struct Health {
            health: Verdict,
        }
        let answer = self.ask_one(endpoint, "/health")?;
        match serde_json::from_slice::<Health>(&answer.body) {
            Ok(Health { health: Verdict::Word(word) }) => Ok(word == "true"),
            Ok(Health { health: Verdict::Flag(flag) }) => Ok(flag),
            Err(error) => Err(Failure::Broken { endpoint: endpoint.to_string(), why: error.to_string() }),
        }
    }
}
