//! The HTTP side of peer URLs: the upgrade that begins a peer stream, its answer, and what a member asks another over
//! plain HTTP.
//!
//! Owns: header names (etcd's where etcd has one) and status codes of the handshake. Touches: httparse, slices.
//!
//! Must always hold: any bytes give a handshake, a wish for more, or `None`/an error; never a panic.

use ringd_storage::ids::{ClusterId, MemberId, RaftIndex, Term};

use super::peer_frame::PROTOCOL_VERSION;
use crate::core::event::Standing;

/// Where raft messages go.
pub const STREAM_PATH: &str = "/raft/stream";
/// Where a snapshot goes.
pub const SNAPSHOT_PATH: &str = "/raft/snapshot";
/// What the upgrade is to.
const UPGRADE: &str = "ringd-raft";
/// The most headers an answer or a request between members has: ours are under ten.
const HEADERS_MAX: usize = 32;
/// An answer's head is at most this long.
pub const ANSWER_HEAD_BYTES_MAX: usize = 16 << 10;
/// Peer URLs that a handshake may name; more are ignored.
const URLS_MAX: usize = 16;
/// Voters that a standing may name: a standing with more is no standing.
const VOTERS_MAX: usize = 64;

const CLUSTER: &str = "X-Etcd-Cluster-ID";
const FROM: &str = "X-Server-From";
const TO: &str = "X-Raft-To";
const URLS: &str = "X-PeerURLs";
const VERSION: &str = "X-Ringd-Protocol";
/// Five numbers (last index, last term, past bootstrap, knows you, removed you), and the ids of the voters in hex with
/// commas between them, or `-`.
const STANDING: &str = "X-Ringd-Standing";
const BYTES: &str = "X-Snapshot-Bytes";

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Raft messages, for as long as it lives.
    Messages,
    /// One snapshot file of so many bytes.
    Snapshot {
        /// The file's length.
        bytes: u64,
    },
}

/// Who wants a stream to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The sender's cluster.
    pub cluster: ClusterId,
    /// The sender.
    pub from: MemberId,
    /// Whom it means.
    pub to: MemberId,
    /// What it speaks.
    pub protocol: u32,
    /// Where the sender can be reached.
    pub peer_urls: Vec<String>,
    /// How the sender stands.
    pub standing: Standing,
    /// What for.
    pub purpose: Purpose,
}

/// What the other side says to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Frames may follow.
    Accepted,
    /// It belongs to this other cluster.
    ForeignCluster(ClusterId),
    /// It is this other member.
    OtherMember(MemberId),
    /// It speaks another protocol version.
    OtherProtocol(u32),
    /// It knows that the sender was removed.
    Removed,
    /// Not now (a snapshot is being received, the process stops).
    Busy,
}

/// Renders the request.
pub fn render_request(out: &mut Vec<u8>, host: &str, handshake: &Handshake) {
    let path = match handshake.purpose {
        Purpose::Messages => STREAM_PATH,
        Purpose::Snapshot { .. } => SNAPSHOT_PATH,
    };
    let mut text = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n{CLUSTER}: {}\r\n\
         {FROM}: {}\r\n{TO}: {}\r\n{VERSION}: {}\r\n{URLS}: {}\r\n{STANDING}: {}\r\n",
        handshake.cluster,
        handshake.from,
        handshake.to,
        handshake.protocol,
        handshake.peer_urls.join(","),
        render_standing(&handshake.standing)
    );
    if let Purpose::Snapshot { bytes } = handshake.purpose {
        text.push_str(&format!("{BYTES}: {bytes}\r\n"));
    }
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Whether a request asks for a peer stream.
#[must_use]
pub fn is_handshake(path: &[u8], upgrade: Option<&[u8]>) -> bool {
    upgrade.is_some_and(|to| to.eq_ignore_ascii_case(UPGRADE.as_bytes()))
        && (path == STREAM_PATH.as_bytes() || path == SNAPSHOT_PATH.as_bytes())
}

/// Reads a request whose head is complete; `None` when something is missing or no number.
#[must_use]
pub fn parse_request(head: &[u8]) -> Option<Handshake> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    if !request.parse(head).ok()?.is_complete() {
        return None;
    }
    let snapshot = request.path? == SNAPSHOT_PATH;
    let value = |name| find(request.headers, name);
    let urls = value(URLS).unwrap_or_default();
    Some(Handshake {
        cluster: ClusterId::new(hex(value(CLUSTER)?)?),
        from: MemberId::new(hex(value(FROM)?)?),
        to: MemberId::new(hex(value(TO)?)?),
        protocol: value(VERSION)?.parse().ok()?,
        peer_urls: list(urls).take(URLS_MAX).map(str::to_owned).collect(),
        standing: parse_standing(value(STANDING)?)?,
        purpose: if snapshot { Purpose::Snapshot { bytes: value(BYTES)?.parse().ok()? } } else { Purpose::Messages },
    })
}

fn render_standing(standing: &Standing) -> String {
    let flag = u8::from;
    let voters: Vec<String> = standing.voters.iter().map(ToString::to_string).collect();
    format!(
        "{} {} {} {} {} {}",
        standing.last_index,
        standing.last_term,
        flag(standing.past_bootstrap),
        flag(standing.knows_you),
        flag(standing.removed_you),
        if voters.is_empty() { "-".to_owned() } else { voters.join(",") }
    )
}

fn parse_standing(text: &str) -> Option<Standing> {
    let (numbers, voters) = text.rsplit_once(' ')?;
    let voters = match voters {
        "-" => Vec::new(),
        ids if ids.split(',').count() > VOTERS_MAX => return None,
        ids => ids.split(',').map(|id| hex(id).map(MemberId::new)).collect::<Option<_>>()?,
    };
    let mut numbers = numbers.split(' ').map(|number| number.parse::<u64>().ok());
    let mut next = || numbers.next().flatten();
    Some(Standing {
        voters,
        last_index: RaftIndex::new(next()?),
        last_term: Term::new(next()?),
        past_bootstrap: next()? == 1,
        knows_you: next()? == 1,
        removed_you: next()? == 1,
    })
}

/// The elements of a header that is a list: space around them and empty ones mean nothing (RFC 9110, 5.6.1).
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|element| !element.is_empty())
}

fn find<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value).ok()
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// Renders the answer of member `own` of `cluster`.
pub fn render_verdict(
    out: &mut Vec<u8>,
    verdict: &Verdict,
    (cluster, own): (ClusterId, MemberId),
    standing: &Standing,
) {
    let (status, body) = match verdict {
        Verdict::Accepted => ("101 Switching Protocols", ""),
        Verdict::ForeignCluster(_) => ("412 Precondition Failed", "cluster ID mismatch\n"),
        Verdict::OtherMember(_) => ("412 Precondition Failed", "member ID mismatch\n"),
        Verdict::OtherProtocol(_) => ("412 Precondition Failed", "protocol version mismatch\n"),
        Verdict::Removed => ("410 Gone", "the member has been permanently removed from the cluster\n"),
        Verdict::Busy => ("503 Service Unavailable", "not now\n"),
    };
    let ids = format!(
        "{CLUSTER}: {cluster}\r\n{FROM}: {own}\r\n{VERSION}: {PROTOCOL_VERSION}\r\n{STANDING}: {}\r\n",
        render_standing(standing)
    );
    let rest = if *verdict == Verdict::Accepted {
        format!("Connection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n")
    } else {
        format!(
            "Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
    };
    out.extend_from_slice(format!("HTTP/1.1 {status}\r\n{ids}{rest}{body}").as_bytes());
}

/// The head of an answer between members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The answering member's cluster, if it says so.
    pub cluster: Option<ClusterId>,
    /// The answering member, if it says so.
    pub member: Option<MemberId>,
    /// What it speaks, if it says so.
    pub protocol: Option<u32>,
    /// How it stands, if it says so.
    pub standing: Option<Standing>,
    /// Bytes of the body, if it says so.
    pub length: Option<u64>,
    /// The body comes in chunks.
    pub chunked: bool,
    /// Where the body or the frames begin.
    pub head_bytes: usize,
}

/// An answer that is no HTTP, or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not HTTP")]
pub struct NotHttp;

/// Reads the head of an answer; `None` until it is complete.
///
/// # Errors
/// [`NotHttp`].
pub fn parse_answer(bytes: &[u8]) -> Result<Option<Answer>, NotHttp> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes).map_err(|_| NotHttp)? {
        httparse::Status::Complete(head_bytes) => head_bytes,
        httparse::Status::Partial if bytes.len() > ANSWER_HEAD_BYTES_MAX => return Err(NotHttp),
        httparse::Status::Partial => return Ok(None),
    };
    let value = |name| find(response.headers, name);
    Ok(Some(Answer {
        status: response.code.ok_or(NotHttp)?,
        cluster: value(CLUSTER).and_then(hex).map(ClusterId::new),
        member: value(FROM).and_then(hex).map(MemberId::new),
        protocol: value(VERSION).and_then(|text| text.parse().ok()),
        standing: value(STANDING).and_then(parse_standing),
        length: value("Content-Length").and_then(|text| text.parse().ok()),
        chunked: value("Transfer-Encoding").is_some_and(|text| text.eq_ignore_ascii_case("chunked")),
        head_bytes,
    }))
}

/// What an answer to `sent` means.
#[must_use]
pub fn verdict(answer: &Answer, sent: &Handshake) -> Option<Verdict> {
    match answer.status {
        101 => Some(Verdict::Accepted),
        410 => Some(Verdict::Removed),
        412 => match (answer.cluster, answer.member, answer.protocol) {
            (Some(cluster), ..) if cluster != sent.cluster => Some(Verdict::ForeignCluster(cluster)),
            (_, Some(member), _) if member != sent.to => Some(Verdict::OtherMember(member)),
            (_, _, Some(protocol)) if protocol != sent.protocol => Some(Verdict::OtherProtocol(protocol)),
            _ => None,
        },
        503 => Some(Verdict::Busy),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake(purpose: Purpose) -> Handshake {
        Handshake {
            cluster: ClusterId::new(0xabc),
            from: MemberId::new(1),
            to: MemberId::new(0xffff_ffff_ffff_fff2),
            protocol: PROTOCOL_VERSION,
            peer_urls: vec!["http://a:1".to_owned(), "http://b:2".to_owned()],
            standing: standing_sent(),
            purpose,
        }
    }

    fn standing_sent() -> Standing {
        Standing {
            last_index: RaftIndex::new(17),
            last_term: Term::new(3),
            past_bootstrap: true,
            voters: vec![MemberId::new(1), MemberId::new(0xffff_ffff_ffff_fff2)],
            knows_you: false,
            removed_you: true,
        }
    }

    #[test]
    fn a_standing_without_voters_reads_back_and_too_many_are_refused() {
        let nobody = Standing { voters: Vec::new(), ..standing_sent() };
        assert_eq!(parse_standing(&render_standing(&nobody)), Some(nobody));
        let crowd = Standing { voters: vec![MemberId::new(1); VOTERS_MAX + 1], ..standing_sent() };
        assert_eq!(parse_standing(&render_standing(&crowd)), None);
    }

    #[test]
    fn a_handshake_reads_back() {
        for purpose in [Purpose::Messages, Purpose::Snapshot { bytes: 1 << 40 }] {
            let sent = handshake(purpose);
            let mut bytes = Vec::new();
            render_request(&mut bytes, "a:1", &sent);
            assert_eq!(parse_request(&bytes), Some(sent));
            assert_eq!(parse_request(&bytes[..bytes.len() - 1]), None);
        }
        assert!(is_handshake(b"/raft/stream", Some(b"ringd-raft")));
        assert!(!is_handshake(b"/raft/stream", None) && !is_handshake(b"/members", Some(b"ringd-raft")));
    }

    #[test]
    fn space_and_empty_elements_between_urls_mean_nothing() {
        let mut bytes = Vec::new();
        render_request(&mut bytes, "a:1", &handshake(Purpose::Messages));
        let spaced = String::from_utf8(bytes).unwrap().replace("http://a:1,http://b:2", ", http://a:1 ,, http://b:2,");
        assert_eq!(parse_request(spaced.as_bytes()), Some(handshake(Purpose::Messages)));
    }

    #[test]
    fn verdicts_read_back() {
        let (sent, own) = (handshake(Purpose::Messages), MemberId::new(0xffff_ffff_ffff_fff2));
        for verdict_sent in [
            Verdict::Accepted,
            Verdict::ForeignCluster(ClusterId::new(0xdef)),
            Verdict::OtherMember(MemberId::new(9)),
            Verdict::Removed,
            Verdict::Busy,
        ] {
            let (cluster, member) = match verdict_sent {
                Verdict::ForeignCluster(cluster) => (cluster, own),
                Verdict::OtherMember(member) => (sent.cluster, member),
                _ => (sent.cluster, own),
            };
            let mut bytes = Vec::new();
            render_verdict(&mut bytes, &verdict_sent, (cluster, member), &standing_sent());
            let answer = parse_answer(&bytes).unwrap().unwrap();
            assert_eq!(verdict(&answer, &sent), Some(verdict_sent));
            assert_eq!(answer.standing, Some(standing_sent()));
            assert_eq!(bytes.len() - answer.head_bytes, answer.length.unwrap_or(0) as usize);
            assert_eq!(parse_answer(&bytes[..answer.head_bytes - 1]), Ok(None));
        }
        assert_eq!(parse_answer(b"SSH-2.0-x\r\n\r\n"), Err(NotHttp));
    }
}
