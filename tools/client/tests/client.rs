//! The client against scripted servers: what it sends, what it repeats, and what it makes of bad answers.
//!
//! Owns: listeners on loopback. Touches: nothing else. Always: a scripted server answers each request with the next
//! line of its script and remembers what it was asked.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ringd_client::{Client, ClientError, Condition, Endpoint, Failure, GetOptions, Options, SetOptions};

/// What a scripted server does with one request.
#[derive(Clone, Copy)]
enum Act {
    /// Answers with these bytes and waits for the next request.
    Say(&'static str),
    /// Hangs up without an answer.
    HangUp,
    /// Reads, and never answers.
    Silence,
}

struct Scripted {
    endpoint: Endpoint,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    fn start(script: Vec<Act>) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&asked);
        thread::spawn(move || {
            let mut script = script.into_iter();
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                serve(&mut stream, &mut script, &theirs);
            }
        });
        Scripted { endpoint: format!("http://{address}").parse().expect("an address"), asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

fn serve(stream: &mut TcpStream, script: &mut impl Iterator<Item = Act>, asked: &Mutex<Vec<String>>) {
    while let Some(request) = read_request(stream) {
        asked.lock().expect("not poisoned").push(request);
        match script.next() {
            Some(Act::Say(answer)) => stream.write_all(answer.as_bytes()).expect("the client reads"),
            Some(Act::Silence) => drop(read_request(stream)),
            Some(Act::HangUp) | None => return,
        }
    }
}

/// First line, a blank, and the body; `None` when the client has gone.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).expect("ASCII");
    let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let first = head.lines().next().unwrap_or("").trim_end_matches(" HTTP/1.1").to_owned();
    Some(format!("{first} {}", String::from_utf8(body).expect("ASCII")).trim_end().to_owned())
}

const GOT: &str = "HTTP/1.1 200 OK\r\nX-Etcd-Index: 9\r\nContent-Length: 74\r\n\r\n\
                   {\"action\":\"get\",\"node\":{\"key\":\"/a\",\"value\":\"1\",\"modifiedIndex\":5,\"x\":0}} \n";
const GOT_CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                           12\r\n{\"action\":\"get\",\"n\r\n19\r\node\":{\"modifiedIndex\":7}}\r\n0\r\n\r\n";
const MISSING: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 70\r\n\r\n\
                       {\"errorCode\":100,\"message\":\"Key not found\",\"cause\":\"/a\",\"index\":3}  \n\n";

fn client(endpoints: &[&Endpoint]) -> Client {
    let patient = Duration::from_secs(20);
    let options = Options { request_timeout: patient, total_timeout: Some(4 * patient), ..Options::default() };
    Client::new(endpoints.iter().map(|e| (*e).clone()).collect(), options)
}

fn dead() -> Endpoint {
    // Bound and closed again: nobody listens there.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("bound")).parse().expect("an address")
}

#[test]
fn answers_of_both_framings_are_read_on_one_connection() {
    let server = Scripted::start(vec![Act::Say(GOT), Act::Say(GOT_CHUNKED), Act::Say(MISSING)]);
    let mut client = client(&[&server.endpoint]);
    let first = client.get("/a", GetOptions::default()).expect("answered");
    assert_eq!((first.index, first.node.map(|n| n.value)), (9, Some("1".into())));
    let second = client.get("a b", GetOptions { quorum: true, ..GetOptions::default() }).expect("answered");
    assert_eq!(second.node.map(|n| n.modified_index), Some(7));
    let third = client.get("/a", GetOptions::default()).expect_err("refused");
    assert_eq!(third.to_string(), "100: Key not found (/a) [3]");
    assert_eq!(server.asked()[1], "GET /v2/keys/a%20b?quorum=true&recursive=false&sorted=false");
}

#[test]
fn a_dead_endpoint_is_passed_over() {
    let server = Scripted::start(vec![Act::Say(GOT), Act::Say(GOT)]);
    let mut client = client(&[&dead(), &server.endpoint]);
    client.get("/a", GetOptions::default()).expect("the second endpoint answers");
    client.set("/a", "v", &SetOptions::default()).expect("and is used from then on");
    assert_eq!(server.asked()[1], "PUT /v2/keys/a value=v");
}

#[test]
fn a_conditional_write_that_may_have_arrived_is_not_sent_again() {
    let (broken, healthy) = (Scripted::start(vec![Act::HangUp]), Scripted::start(vec![Act::Say(GOT)]));
    let mut client = client(&[&broken.endpoint, &healthy.endpoint]);
    let options = SetOptions { condition: Condition { index: 7, ..Condition::default() }, ..SetOptions::default() };
    let error = client.set("/a", "1", &options).expect_err("nobody knows what became of it");
    assert!(matches!(&error, ClientError::Unavailable(f) if matches!(f[..], [Failure::Broken { .. }])), "{error}");
    assert_eq!(broken.asked(), ["PUT /v2/keys/a?prevIndex=7 value=1"]);
    assert_eq!(healthy.asked(), [""; 0]);
}

#[test]
fn a_read_goes_on_to_the_next_endpoint() {
    let broken = Scripted::start(vec![Act::HangUp]);
    let failing = Scripted::start(vec![Act::Say("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")]);
    let healthy = Scripted::start(vec![Act::Say(GOT)]);
    let mut client = client(&[&broken.endpoint, &failing.endpoint, &healthy.endpoint]);
    client.get("/a", GetOptions::default()).expect("the third one answers");
}

#[test]
fn silence_is_a_failure_of_the_endpoint_or_of_the_deadline() {
    let server = Scripted::start(vec![Act::Silence]);
    // Whatever else is slow, this must not be the deadline's fault.
    let total_timeout = Some(Duration::from_secs(60));
    let options = Options { request_timeout: Duration::from_millis(300), total_timeout, ..Options::default() };
    let mut client = Client::new(vec![server.endpoint.clone()], options);
    let error = client.get("/a", GetOptions::default()).expect_err("no answer");
    assert!(
        matches!(&error, ClientError::Unavailable(f) if matches!(f[..], [Failure::HeaderTimeout { .. }])),
        "{error}"
    );
    let server = Scripted::start(vec![Act::Silence]);
    let options = Options { total_timeout: Some(Duration::from_millis(50)), ..Options::default() };
    let mut client = Client::new(vec![server.endpoint.clone()], options);
    assert_eq!(client.get("/a", GetOptions::default()), Err(ClientError::Deadline));
}

#[test]
fn what_is_not_this_api_is_an_error() {
    for (answer, wanted) in [
        ("HTTP/1.1 404 X\r\nContent-Length: 2\r\n\r\n{}", ClientError::UnexpectedStatus { status: 404 }),
        ("HTTP/1.1 404 X\r\nContent-Length: 4\r\n\r\nnope", ClientError::InvalidJson),
        ("HTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nnope", ClientError::InvalidJson),
    ] {
        let server = Scripted::start(vec![Act::Say(answer)]);
        assert_eq!(client(&[&server.endpoint]).get("/a", GetOptions::default()), Err(wanted));
    }
    for garbage in ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"] {
        let server = Scripted::start(vec![Act::Say(garbage)]);
        let error = client(&[&server.endpoint]).get("/a", GetOptions::default()).expect_err("garbage");
        assert!(matches!(error, ClientError::Unavailable(_)), "{error}");
    }
}

#[test]
fn a_watch_asks_for_what_comes_after_the_last_event() {
    let empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let server = Scripted::start(vec![Act::Say(empty), Act::Say(GOT_CHUNKED), Act::Say(GOT)]);
    let mut client = client(&[&server.endpoint]);
    let mut watch = client.watch("/a", 3, true);
    watch.next_event().expect("an event");
    watch.next_event().expect("another");
    let asked = ["4", "4", "8"].map(|n| format!("GET /v2/keys/a?recursive=true&wait=true&waitIndex={n}"));
    assert_eq!(server.asked(), asked);
}

#[test]
fn a_sync_takes_the_published_urls() {
    let members = "HTTP/1.1 200 OK\r\nContent-Length: 84\r\n\r\n\
                   {\"members\":[{\"id\":\"1\",\"clientURLs\":[\"http://h:1\",\"http://h:2\"]},{\"clientURLs\":[]}]} ";
    let server = Scripted::start(vec![Act::Say(members), Act::Say("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")]);
    let mut client = client(&[&server.endpoint]);
    client.sync().expect("answered");
    assert_eq!(client.endpoints().iter().map(ToString::to_string).collect::<Vec<_>>(), ["http://h:1", "http://h:2"]);
}
