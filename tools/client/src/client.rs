//! The way of a call to a server that answers it, and the calls on keys.
//!
//! Owns: the list of endpoints, which of them is in use, and the connection to it. Touches: sockets through `http`.
//! `members` and `auth` add the calls on those APIs.
//! Always: endpoints are tried in order, beginning with the one that answered last; a conditional or in-order write
//! that may have reached a server is not repeated on another.

use std::time::{Duration, Instant};

use crate::encode::{base64, clean_key, encode_form, escape_path};
use crate::endpoint::Endpoint;
use crate::error::{ApiError, ClientError, Failure};
use crate::http::{Answer, Connection, Limits, Trouble};
use crate::tls::Tls;
use crate::types::Response;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// For connecting and for the head of an answer.
    pub request_timeout: Duration,
    /// For one call with all its attempts; a watch has no such limit.
    pub total_timeout: Option<Duration>,
    /// `user:password`, sent as Basic authentication.
    pub credentials: Option<String>,
    /// What `https` endpoints are met with.
    pub tls: Tls,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            request_timeout: Duration::from_secs(2),
            total_timeout: Some(Duration::from_secs(5)),
            credentials: None,
            tls: Tls::default(),
        }
    }
}

/// What must hold for a write or a delete to happen.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    /// Nothing is asked if empty.
    pub value: String,
    /// Nothing is asked if 0.
    pub index: u64,
    pub exists: Option<bool>,
}

#[derive(Clone, Debug, Default)]
pub struct SetOptions {
    pub condition: Condition,
    /// Seconds.
    pub ttl: Option<u64>,
    pub dir: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct GetOptions {
    pub recursive: bool,
    pub sorted: bool,
    pub quorum: bool,
}

/// A call as it goes to any endpoint.
pub(crate) struct Call<'a> {
    pub method: &'a str,
    /// Path and query, escaped.
    pub target: String,
    /// Its media type and content.
    pub body: Option<(&'a str, String)>,
    /// Doing it twice is as good as doing it once.
    pub repeatable: bool,
    /// The server answers when something happens.
    pub waits: bool,
}

impl Call<'_> {
    pub fn get(target: &str) -> Call<'static> {
        Call { method: "GET", target: target.to_owned(), body: None, repeatable: true, waits: false }
    }
}

/// Called with every request just before it is sent, as a `curl` command line.
pub type Trace = Box<dyn FnMut(&str) + Send>;

pub struct Client {
    endpoints: Vec<Endpoint>,
    /// The endpoint that answered last.
    current: usize,
    options: Options,
    connection: Option<Connection>,
    trace: Option<Trace>,
}

impl Client {
    /// A client of the cluster behind `endpoints`; connects when the first call is made.
    pub fn new(endpoints: Vec<Endpoint>, options: Options) -> Client {
        Client { endpoints, current: 0, options, connection: None, trace: None }
    }

    /// Another client of the same cluster with the same settings, and a connection of its own; it traces nothing.
    #[must_use]
    pub fn sibling(&self) -> Client {
        let (endpoints, options) = (self.endpoints.clone(), self.options.clone());
        Client { endpoints, current: self.current, options, connection: None, trace: None }
    }

    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub fn set_trace(&mut self, trace: Trace) {
        self.trace = Some(trace);
    }

    /// Replaces the endpoints by the client URLs of all members.
    pub fn sync(&mut self) -> Result<(), ClientError> {
        let urls = self.members()?.into_iter().flat_map(|m| m.client_urls);
        // A URL another member published and we cannot read is no reason to refuse those we can.
        let endpoints: Vec<Endpoint> = urls.filter_map(|u| u.parse().ok()).collect();
        if endpoints.is_empty() {
            return Err(ClientError::NoEndpoints);
        }
        let used = self.endpoints.get(self.current).cloned();
        self.current = endpoints.iter().position(|e| Some(e) == used.as_ref()).unwrap_or(0);
        self.endpoints = endpoints;
        Ok(())
    }

    pub fn get(&mut self, key: &str, options: GetOptions) -> Result<Response, ClientError> {
        let GetOptions { recursive, sorted, quorum } = options;
        let query = [("quorum", quorum), ("recursive", recursive), ("sorted", sorted)];
        let query = query.map(|(name, value)| (name, value.to_string()));
        self.keys("GET", key, &query, None, true)
    }

    /// Writes `value`, or makes or updates a directory.
    pub fn set(&mut self, key: &str, value: &str, options: &SetOptions) -> Result<Response, ClientError> {
        let Condition { value: prev_value, index, exists } = &options.condition;
        let mut query = Vec::new();
        if options.dir {
            query.push(("dir", "true".to_owned()));
        }
        query.extend(exists.map(|e| ("prevExist", e.to_string())));
        if *index != 0 {
            query.push(("prevIndex", index.to_string()));
        }
        if !prev_value.is_empty() {
            query.push(("prevValue", prev_value.clone()));
        }
        let plain = prev_value.is_empty() && *index == 0 && exists.is_none();
        self.keys("PUT", key, &query, Some(form(value, options)), plain)
    }

    /// Creates a key below the directory `key`, named after the index of its creation.
    pub fn create_in_order(&mut self, key: &str, value: &str, ttl: Option<u64>) -> Result<Response, ClientError> {
        let options = SetOptions { ttl, ..SetOptions::default() };
        self.keys("POST", key, &[], Some(form(value, &options)), false)
    }

    pub fn delete(
        &mut self,
        key: &str,
        condition: &Condition,
        dir: bool,
        recursive: bool,
    ) -> Result<Response, ClientError> {
        let mut query = Vec::new();
        if dir {
            query.push(("dir", "true".to_owned()));
        }
        if condition.index != 0 {
            query.push(("prevIndex", condition.index.to_string()));
        }
        if !condition.value.is_empty() {
            query.push(("prevValue", condition.value.clone()));
        }
        if recursive {
            query.push(("recursive", "true".to_owned()));
        }
        self.keys("DELETE", key, &query, None, false)
    }

    /// Watches `key` for changes after index `after` (0: from now on).
    pub fn watch<'a>(&'a mut self, key: &str, after: u64, recursive: bool) -> Watch<'a> {
        let next = if after == 0 { 0 } else { after.saturating_add(1) };
        Watch { client: self, key: key.to_owned(), recursive, next }
    }

    fn keys(
        &mut self,
        method: &str,
        key: &str,
        query: &[(&str, String)],
        form: Option<String>,
        repeatable: bool,
    ) -> Result<Response, ClientError> {
        let body = form.map(|form| ("application/x-www-form-urlencoded", form));
        let call = Call { method, target: target(key, query), body, repeatable, waits: false };
        let answer = self.call(&call)?;
        read_keys_answer(&answer)
    }

    /// Makes `call` at the endpoints in turn, until one answers.
    pub(crate) fn call(&mut self, call: &Call<'_>) -> Result<Answer, ClientError> {
        let deadline = self.options.total_timeout.filter(|_| !call.waits).map(|t| Instant::now() + t);
        let per_request = Some(self.options.request_timeout).filter(|_| !call.waits);
        let limits = Limits { per_request, deadline };
        if self.endpoints.is_empty() {
            return Err(ClientError::NoEndpoints);
        }
        let mut failures = Vec::new();
        for step in 0..self.endpoints.len() {
            let index = (self.current + step) % self.endpoints.len();
            let endpoint = self.endpoints[index].clone();
            match self.attempt(&endpoint, call, limits) {
                Ok(answer) if answer.status >= 500 => {
                    let endpoint = endpoint.to_string();
                    failures.push(match answer.status {
                        500 | 503 => Failure::NoLeader { endpoint, reason: answer.reason },
                        status => Failure::ServerError { endpoint, status },
                    });
                    if !call.repeatable {
                        break;
                    }
                }
                Ok(answer) => {
                    self.current = index;
                    return Ok(answer);
                }
                Err(Trouble::DeadlinePassed) => return Err(ClientError::Deadline),
                Err(Trouble::Failed { failure, may_have_acted }) => {
                    failures.push(failure);
                    if may_have_acted && !call.repeatable {
                        break;
                    }
                }
            }
        }
        Err(ClientError::Unavailable(failures))
    }

    /// One GET at `endpoint` and nowhere else, without credentials; the answer whatever its status.
    ///
    /// # Errors
    /// What went wrong with that endpoint.
    pub(crate) fn ask_one(&mut self, endpoint: &Endpoint, path: &str) -> Result<Answer, Failure> {
        let limits = Limits { per_request: Some(self.options.request_timeout), deadline: None };
        let (base, host) = (endpoint.base(), endpoint.authority());
        let request = format!("GET {base}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let exchanged = Connection::open(endpoint, &self.options.tls, self.options.request_timeout, limits)
            .and_then(|mut connection| connection.exchange(request.as_bytes(), limits));
        match exchanged {
            Ok((answer, _)) => Ok(answer),
            Err(Trouble::Failed { failure, .. }) => Err(failure),
            Err(Trouble::DeadlinePassed) => unreachable!("no deadline was set"),
        }
    }

    /// One GET of `path` at `endpoint` and nowhere else, without credentials: status and body.
    ///
    /// # Errors
    /// What went wrong with that endpoint.
    pub fn fetch(&mut self, endpoint: &Endpoint, path: &str) -> Result<(u16, Vec<u8>), Failure> {
        self.ask_one(endpoint, path).map(|answer| (answer.status, answer.body))
    }

    /// One exchange with one endpoint, on the kept-alive connection if there is one.
    fn attempt(&mut self, endpoint: &Endpoint, call: &Call<'_>, limits: Limits) -> Result<Answer, Trouble> {
        let request = self.request(endpoint, call);
        if let Some(trace) = &mut self.trace {
            let body = call.body.as_ref().map_or_else(String::new, |(_, body)| format!(" -d {body:?}"));
            trace(&format!("curl -X {} {endpoint}{}{body}", call.method, call.target));
        }
        loop {
            let kept = self.connection.take().filter(|c| c.endpoint() == endpoint);
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::open(endpoint, &self.options.tls, self.options.request_timeout, limits)?,
            };
            let reused = connection.reused();
            match connection.exchange(&request, limits) {
                Ok((answer, keeps)) => {
                    self.connection = Some(connection).filter(|_| keeps);
                    return Ok(answer);
                }
                // The server may have closed it while it was idle: once more on a new one.
                Err(Trouble::Failed { failure: Failure::Broken { .. }, .. }) if reused && call.repeatable => {}
                Err(trouble) => return Err(trouble),
            }
        }
    }

    fn request(&self, endpoint: &Endpoint, call: &Call<'_>) -> Vec<u8> {
        let mut head = format!(
            "{} {}{} HTTP/1.1\r\nHost: {}\r\n",
            call.method,
            endpoint.base(),
            call.target,
            endpoint.authority()
        );
        if let Some(credentials) = &self.options.credentials {
            head.push_str(&format!("Authorization: Basic {}\r\n", base64(credentials.as_bytes())));
        }
        if let Some((kind, body)) = &call.body {
            head.push_str(&format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if let Some((_, body)) = &call.body {
            bytes.extend_from_slice(body.as_bytes());
        }
        bytes
    }
}

/// A series of events.
pub struct Watch<'a> {
    client: &'a mut Client,
    key: String,
    recursive: bool,
    /// The lowest index of interest; 0: whatever comes next.
    next: u64,
}

impl Watch<'_> {
    /// Waits for the next event, without a time limit.
    ///
    /// # Errors
    /// An `Api` error with code 401 when the event is older than the server's history.
    pub fn next_event(&mut self) -> Result<Response, ClientError> {
        loop {
            let mut query = vec![("recursive", self.recursive.to_string()), ("wait", "true".to_owned())];
            if self.next != 0 {
                query.push(("waitIndex", self.next.to_string()));
            }
            let target = target(&self.key, &query);
            let call = Call { method: "GET", target, body: None, repeatable: true, waits: true };
            let answer = self.client.call(&call)?;
            if answer.status == 200 && answer.body.is_empty() {
                continue; // the server gave up waiting
            }
            let response = read_keys_answer(&answer)?;
            self.next = response.node.as_ref().map_or(0, |n| n.modified_index) + 1;
            return Ok(response);
        }
    }
}

fn target(key: &str, query: &[(&str, String)]) -> String {
    let mut target = escape_path(&format!("/v2/keys{}", clean_key(key)));
    if !query.is_empty() {
        target.push('?');
        target.push_str(&encode_form(query));
    }
    target
}

fn form(value: &str, options: &SetOptions) -> String {
    let mut pairs = Vec::new();
    pairs.extend(options.ttl.map(|ttl| ("ttl", ttl.to_string())));
    if !options.dir {
        pairs.push(("value", value.to_owned()));
    }
    encode_form(&pairs)
}

fn read_keys_answer(answer: &Answer) -> Result<Response, ClientError> {
    if matches!(answer.status, 200 | 201) {
        let mut response: Response = serde_json::from_slice(&answer.body).map_err(|_| ClientError::InvalidJson)?;
        response.index = answer.etcd_index;
        return Ok(response);
    }
    match serde_json::from_slice::<ApiError>(&answer.body) {
        Ok(error) if error.error_code != 0 => Err(ClientError::Api(error)),
        Ok(_) => Err(ClientError::UnexpectedStatus { status: answer.status }),
        Err(_) => Err(ClientError::InvalidJson),
    }
}
