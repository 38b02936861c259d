//! One client of a proxy: its requests in, members' answers out.
//!
//! Owns: the client's buffers, and what a request means to the proxy itself. Touches: the proxy's endpoints and pool.
//!
//! Invariants:
//! 1. A request is held whole before any of it is sent on, so that another member can be asked; an answer is passed on as
//!    it arrives, so that watches stream.
//! 2. A write whose request has left for a member is sent to no other: it may have been executed. (etcd sends it again.)
//! 3. An answer that breaks off breaks off for the client too; it is never made to look whole.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::AsyncWrite;

use super::upstream::{self, Arrived, Upstream, poll_receive, within};
use super::{Proxy, clock};
use crate::config::joining::ProxyMode;
use crate::metrics::{self, Dropped};
use crate::shell::pressure::Held;
use crate::shell::raw;
use crate::shell::tls::Stream;
use crate::wire::forward::{self, Client, Passage};
use crate::wire::http_answer::{AnswerBody, AnswerHead, parse_head};
use crate::wire::http_body::{BodyError, Next, Request, RequestReader};
use crate::wire::http_reply::{
    CONTINUE, JSON, REQUEST_TIMEOUT, ReplyHead, TEXT, TOO_MANY_BODIES, TOO_MANY_CONNECTIONS, append_reply_bytes,
};
use crate::wire::http_request::RequestError;

/// Buffers larger than this are given back while a client is idle.
const IDLE_BUFFER_BYTES: usize = 4 << 10;
/// A body up to this size is copied behind its head, so that both leave in one write; a larger one leaves from where it was
/// gathered.
const COPIED_BODY_MAX: usize = 16 << 10;
/// After the last answer so much is read and thrown away, and for so long: closing while the client sends would reset the
/// connection, and the reset can overtake the answer.
const LINGER_BYTES_MAX: usize = 32 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// A client's connection.
struct Link {
    stream: Stream,
    /// What it sent and was not served yet.
    input: Vec<u8>,
    /// What is counted of `input`.
    held: Held,
    /// What it gets next.
    out: Vec<u8>,
    /// Where it is.
    address: Option<String>,
}

/// A request on its way to a member.
struct Errand {
    /// Its head, and its body if that is small.
    bytes: Vec<u8>,
    body: Option<LargeBody>,
    method: Vec<u8>,
    /// It changes nothing, so it may be sent twice.
    is_safe: bool,
    http_minor: u8,
    keep_alive: bool,
    cors: super::super::cors::CorsChoice,
    begun: Instant,
}

/// A body in the buffer in which it was gathered.
struct LargeBody {
    buffer: Vec<u8>,
    place: Range<usize>,
    _held: Held,
}

impl Errand {
    /// An answer has begun: the request is not needed any more, and a watch may last for ever.
    fn forget_request(&mut self) {
        (self.bytes, self.body) = (Vec::new(), None);
    }
}

/// What becomes of a request.
enum Plan {
    /// The answer is rendered; whether another request may follow.
    Answered(bool),
    /// Pass it on; a large body is still in the input, there.
    Forward(Errand, Option<Range<usize>>),
}

/// What became of a request that was sent to one member.
enum Sent {
    /// Its answer begins; what arrived of it is in the buffer.
    Begun(Box<(Upstream, AnswerHead, Vec<u8>)>),
    /// No answer; whether another member may be asked.
    Failed(io::Error, bool),
    ClientGone,
}

/// Serves a client until either side ends it, or tells it that there are too many.
pub async fn serve(proxy: &Rc<Proxy>, stream: Stream, refuse: bool) {
    let _ = stream.socket().set_nodelay(true);
    let address = raw::peer_ip(stream.socket()).map(|ip| ip.to_string());
    let held = Held::new(&proxy.pressure);
    let mut link = Link { stream, input: Vec::new(), held, out: Vec::new(), address };
    let ended = if refuse {
        link.out.extend_from_slice(TOO_MANY_CONNECTIONS);
        finish(proxy, &mut link).await
    } else {
        exchange(proxy, &mut link).await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
        // What it does not read would stay in the kernel for minutes, and what is not whole must not look whole.
        raw::reset_on_close(link.stream.socket());
    }
}

async fn exchange(proxy: &Rc<Proxy>, link: &mut Link) -> io::Result<()> {
    let mut reader = RequestReader::new();
    let mut phase = Phase::begin(proxy, Step::Idle);
    loop {
        match reader.next(&link.input, &proxy.limits) {
            Next::Request(request) => {
                let mut out = std::mem::take(&mut link.out);
                let plan = plan(proxy, &mut out, &request, &link.input, link.address.as_deref());
                link.out = out;
                let served = reader.served();
                let goes_on = match plan {
                    Plan::Answered(goes_on) => {
                        link.input.drain(..served);
                        goes_on
                    }
                    Plan::Forward(mut errand, place) => {
                        errand.body = link.take_request(served, place);
                        forward(proxy, link, errand).await?
                    }
                };
                flush(proxy, link).await?;
                if !goes_on {
                    return finish(proxy, link).await;
                }
                phase = Phase::begin(proxy, Step::Idle);
            }
            Next::Decode => reader.decode(&mut link.input),
            Next::Refuse(error) => {
                link.out.extend_from_slice(error.reply());
                return finish(proxy, link).await;
            }
            Next::NeedMore { send_continue, total } => {
                let slack = reader.slack();
                if !slack.is_empty() {
                    link.input.drain(slack);
                    reader.compacted();
                }
                if !link.expect_input(total) {
                    proxy.complain("a large body was refused: see --ringd-bodies-bytes");
                    link.out.extend_from_slice(TOO_MANY_BODIES);
                    return finish(proxy, link).await;
                }
                if send_continue {
                    link.out.extend_from_slice(CONTINUE);
                    flush(proxy, link).await?;
                }
                release(&mut link.input);
                release(&mut link.out);
                let step = match (reader.is_inside_body(), reader.is_inside_request(&link.input)) {
                    (true, _) => Step::Body,
                    (_, true) => Step::Head,
                    _ => Step::Idle,
                };
                if step != phase.step {
                    phase = Phase::begin(proxy, step);
                }
                let (stream, input) = (&mut link.stream, &mut link.input);
                match within(phase.left(), poll_fn(|context| poll_receive(proxy, stream, input, context))).await {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::TimedOut && step == Step::Idle => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        link.out.extend_from_slice(REQUEST_TIMEOUT);
                        return finish(proxy, link).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        glommio::yield_if_needed().await;
    }
}

impl Link {
    /// Makes room for what is about to arrive: in the end the input will hold `total` bytes, if that is known. False when
    /// too much is held already.
    fn expect_input(&mut self, total: Option<usize>) -> bool {
        let before = self.held.counted();
        if !self.held.hold(total.unwrap_or(0).max(self.input.len())) {
            return false;
        }
        if self.held.counted() < before {
            self.input.shrink_to(IDLE_BUFFER_BYTES);
        }
        if let Some(total) = total {
            self.input.reserve(total.saturating_sub(self.input.len()));
        }
        true
    }

    /// Takes the first `served` bytes out of the input; a large body at `place` keeps its buffer and what is counted for
    /// it.
    fn take_request(&mut self, served: usize, place: Option<Range<usize>>) -> Option<LargeBody> {
        let Some(place) = place else {
            self.input.drain(..served);
            return None;
        };
        let rest = self.input.split_off(served);
        let buffer = std::mem::replace(&mut self.input, rest);
        Some(LargeBody { buffer, place, _held: self.held.hand_over() })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Idle,
    Head,
    Body,
}

/// What is awaited of a client, and until when.
struct Phase {
    step: Step,
    until: Option<Instant>,
}

impl Phase {
    fn begin(proxy: &Proxy, step: Step) -> Self {
        let limit = match step {
            Step::Idle => proxy.timeouts.idle,
            Step::Head => proxy.timeouts.head,
            Step::Body => proxy.timeouts.body,
        };
        let until = limit.map(|seconds| clock::monotonic() + Duration::from_secs(seconds.get().into()));
        Self { step, until }
    }

    fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(clock::monotonic()))
    }
}

fn release(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > IDLE_BUFFER_BYTES {
        *buffer = Vec::new();
    }
}

/// Answers what is the proxy's own business, and makes an errand of the rest. etcd's order: the metrics, then the check
/// of a read-only proxy, then OPTIONS, then its own setting.
fn plan(proxy: &Proxy, out: &mut Vec<u8>, request: &Request<'_>, input: &[u8], address: Option<&str>) -> Plan {
    let head = &request.head;
    let date = proxy.date.at(clock::now());
    let cors = proxy.cors.choose(head.origin);
    let bare = ReplyHead {
        http_minor: head.http_minor,
        keep_alive: request.keep_alive,
        head_only: head.method == b"HEAD",
        ..ReplyHead::new(200, &date)
    };
    let with_cors = ReplyHead { cors: proxy.cors.lines(cors), ..bare };
    if head.path == b"/metrics" {
        let mut text = Vec::new();
        proxy.metrics.render(&mut text);
        append_reply_bytes(out, &ReplyHead { content_type: metrics::CONTENT_TYPE, ..bare }, &text);
        return Plan::Answered(request.keep_alive);
    }
    if proxy.settings.mode == ProxyMode::ReadOnly && head.method != b"GET" {
        append_reply_bytes(out, &ReplyHead { status: 501, ..bare }, b"");
        return Plan::Answered(request.keep_alive);
    }
    if head.method == b"OPTIONS" {
        append_reply_bytes(out, &with_cors, b"");
        return Plan::Answered(request.keep_alive);
    }
    if head.path == b"/v2/config/local/proxy" {
        if head.method == b"GET" {
            let _ = proxy.endpoints();
            let mut text = Vec::new();
            proxy.director.borrow().render(&mut text);
            append_reply_bytes(out, &ReplyHead { content_type: TEXT, ..with_cors }, &text);
        } else {
            let refusal = ReplyHead { status: 405, allow: Some("GET"), content_type: TEXT, nosniff: true, ..with_cors };
            append_reply_bytes(out, &refusal, b"Method Not Allowed\n");
        }
        return Plan::Answered(request.keep_alive);
    }
    proxy.metrics.arrived(head.method);
    let body = match request.body {
        Ok(body) => body,
        Err(error) => {
            let told = if error == BodyError::TooLarge { "http: request body too large" } else { error.cause() };
            own_error(proxy, out, &with_cors, 500, &format!("failed to read request body: {told}"));
            return Plan::Answered(false);
        }
    };
    let is_large = body.len() > COPIED_BODY_MAX;
    let mut bytes = Vec::with_capacity(head.head_len + if is_large { 0 } else { body.len() } + 64);
    if forward::append_request(&mut bytes, &input[..head.head_len], head, body.len(), address, "localhost").is_err() {
        out.extend_from_slice(RequestError::Malformed("it cannot be passed on").reply());
        return Plan::Answered(false);
    }
    let place = is_large.then(|| head.head_len..head.head_len + body.len());
    if !is_large {
        bytes.extend_from_slice(body);
    }
    let errand = Errand {
        bytes,
        body: None,
        method: head.method.to_vec(),
        is_safe: matches!(head.method, b"GET" | b"HEAD"),
        http_minor: head.http_minor,
        keep_alive: request.keep_alive,
        cors,
        begun: clock::monotonic(),
    };
    Plan::Forward(errand, place)
}

/// The proxy's own answers to what it cannot pass on, etcd's.
fn own_error(proxy: &Proxy, out: &mut Vec<u8>, head: &ReplyHead<'_>, status: u16, why: &str) {
    proxy.complain(why);
    let body = format!("{{\"message\":\"httpproxy: {why}\"}}");
    append_reply_bytes(out, &ReplyHead { status, content_type: JSON, ..*head }, body.as_bytes());
}

/// Passes a request on; true when the client may ask again.
async fn forward(proxy: &Rc<Proxy>, link: &mut Link, mut errand: Errand) -> io::Result<bool> {
    let endpoints = proxy.endpoints();
    for url in &endpoints {
        match ask(proxy, link, &errand, url).await {
            Sent::Begun(begun) => {
                let (upstream, head, arrived) = *begun;
                errand.forget_request();
                proxy.metrics.handled(&errand.method, head.status, errand.begun.elapsed());
                return pass(proxy, link, &errand, (url, upstream), &head, arrived).await;
            }
            Sent::Failed(error, may_go_on) => {
                proxy.metrics.dropped(&errand.method, Dropped::FailedSending);
                tracing::warn!("failed to direct request to {url}: {error}");
                proxy.failed(url);
                if !may_go_on {
                    break;
                }
            }
            Sent::ClientGone => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
    let date = proxy.date.at(clock::now());
    let head = ReplyHead {
        http_minor: errand.http_minor,
        keep_alive: errand.keep_alive,
        head_only: errand.method == b"HEAD",
        cors: proxy.cors.lines(errand.cors),
        ..ReplyHead::new(502, &date)
    };
    if endpoints.is_empty() {
        proxy.metrics.dropped(&errand.method, Dropped::ZeroEndpoints);
        own_error(proxy, &mut link.out, &head, 503, "zero endpoints currently available");
    } else {
        proxy.metrics.dropped(&errand.method, Dropped::FailedGetting);
        own_error(
            proxy,
            &mut link.out,
            &head,
            502,
            &format!("unable to get response from {} endpoint(s)", endpoints.len()),
        );
    }
    Ok(errand.keep_alive)
}

/// Sends a request to one member, and waits until its answer begins.
async fn ask(proxy: &Rc<Proxy>, link: &mut Link, errand: &Errand, url: &Rc<str>) -> Sent {
    let mut may_reuse = true;
    loop {
        let mut upstream = match upstream::open(proxy, url, may_reuse).await {
            Ok(upstream) => upstream,
            Err(error) => return Sent::Failed(error, true),
        };
        match exchange_head(proxy, link, errand, &mut upstream.stream).await {
            Ok(Some((head, arrived))) => return Sent::Begun(Box::new((upstream, head, arrived))),
            Ok(None) => return Sent::ClientGone,
            // The member may have ended an idle connection at this very moment; that says nothing about the member.
            Err(error) if upstream.is_used && errand.is_safe && error.kind() != io::ErrorKind::TimedOut => {
                may_reuse = false;
            }
            Err(error) => return Sent::Failed(error, errand.is_safe),
        }
    }
}

/// `None` when the client left.
async fn exchange_head(
    proxy: &Rc<Proxy>,
    link: &mut Link,
    errand: &Errand,
    stream: &mut Stream,
) -> io::Result<Option<(AnswerHead, Vec<u8>)>> {
    upstream::send(stream, &errand.bytes, proxy.settings.write_timeout).await?;
    if let Some(body) = &errand.body {
        upstream::send(stream, &body.buffer[body.place.clone()], proxy.settings.write_timeout).await?;
    }
    let to_head = errand.method == b"HEAD";
    let mut arrived = Vec::new();
    loop {
        let parsed =
            parse_head(&arrived, to_head).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        match parsed {
            Some(head) if head.status == 101 => return Err(io::ErrorKind::InvalidData.into()),
            Some(head) if head.status < 200 => drop(arrived.drain(..head.head_bytes)),
            Some(head) => return Ok(Some((head, arrived))),
            None => match upstream::receive(proxy, stream, &mut arrived, &mut link.stream, &mut link.input).await? {
                Arrived::Bytes(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Arrived::Bytes(_) => {}
                Arrived::ClientGone => return Ok(None),
            },
        }
    }
}

/// Passes an answer on as it arrives; true when the client may ask again.
async fn pass(
    proxy: &Rc<Proxy>,
    link: &mut Link,
    errand: &Errand,
    (url, mut upstream): (&Rc<str>, Upstream),
    head: &AnswerHead,
    mut arrived: Vec<u8>,
) -> io::Result<bool> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let must_close = {
        let client = Client {
            http_minor: errand.http_minor,
            keep_alive: errand.keep_alive,
            cors: proxy.cors.lines(errand.cors),
        };
        let passage = forward::append_answer(&mut link.out, &arrived[..head.head_bytes], head, &client)
            .map_err(|error| invalid(error.to_string()))?;
        arrived.drain(..head.head_bytes);
        let mut body = AnswerBody::new(head.framing);
        loop {
            let out = &mut link.out;
            let taken = body.advance(&mut arrived, |part| match passage {
                Passage::Plain => out.extend_from_slice(part),
                Passage::Parts(stream) => stream.append(out, |out| out.extend_from_slice(part)),
            });
            taken.map_err(|error| invalid(error.to_string()))?;
            if body.is_done() {
                break;
            }
            flush(proxy, link).await?;
            let (client, input) = (&mut link.stream, &mut link.input);
            match upstream::receive(proxy, &mut upstream.stream, &mut arrived, client, input).await? {
                Arrived::Bytes(0) if body.end() => break,
                Arrived::Bytes(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Arrived::Bytes(_) => {}
                Arrived::ClientGone => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
            glommio::yield_if_needed().await;
        }
        if let Passage::Parts(stream) = passage {
            stream.finish(&mut link.out);
        }
        passage.must_close(&client)
    };
    if head.keep_alive && arrived.is_empty() {
        proxy.pool.put(url, upstream.stream, proxy.now());
    }
    Ok(!must_close)
}

/// Sends what has gathered.
async fn flush(proxy: &Proxy, link: &mut Link) -> io::Result<()> {
    let limit = proxy.timeouts.write.map(|seconds| Duration::from_secs(seconds.get().into()));
    upstream::send(&mut link.stream, &link.out, limit).await?;
    link.out.clear();
    Ok(())
}

/// Sends what is left, says goodbye, and reads on for a while.
async fn finish(proxy: &Proxy, link: &mut Link) -> io::Result<()> {
    link.input = Vec::new();
    drop(link.held.hand_over());
    flush(proxy, link).await?;
    let (stream, input) = (&mut link.stream, &mut link.input);
    say_goodbye(stream).await?;
    let discarded = async {
        let mut left = LINGER_BYTES_MAX;
        while left > 0 {
            input.clear();
            match poll_fn(|context| poll_receive(proxy, stream, input, context)).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok(())
    };
    let _ = within(Some(LINGER_TIME), discarded).await;
    Ok(())
}

/// Ends our side. Under TLS that is a message, which a client that does not read may have no room for.
async fn say_goodbye<S: AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    within(Some(LINGER_TIME), poll_fn(|context| Pin::new(&mut *stream).poll_close(context))).await
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use super::*;

    /// Takes nothing any more.
    struct Full;

    impl AsyncWrite for Full {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[test]
    fn a_client_that_does_not_take_the_goodbye_is_not_waited_for() {
        let executor = glommio::LocalExecutorBuilder::default().make().unwrap();
        let said = executor.run(say_goodbye(&mut Full));
        assert_eq!(said.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
