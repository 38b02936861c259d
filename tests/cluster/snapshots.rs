//! A member that sends a damaged snapshot: the test is that member.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::BytesMut;
use ringd::core::event::Standing;
use ringd::core::replica::PeerMessage;
use ringd::wire::peer_frame::{FRAME_HEADER_BYTES, Frame, Outbox, PROTOCOL_VERSION, append_chunk, next_frame};
use ringd::wire::peer_handshake::{Handshake, Purpose, parse_answer, render_request};
use ringd_storage::ids::{ClusterId, MemberId};

use crate::cluster::{Cluster, PATIENCE, wait_for};

/// Of the file that is announced.
const FILE_BYTES: usize = 100_000;
/// A raft message in protobuf: a snapshot (type 7) of entry 1 << 20, which is far beyond what the members have, in term 1.
const OFFER: &[u8] = b"\x08\x07\x4a\x08\x12\x06\x10\x80\x80\x40\x18\x01";

/// [`OFFER`] between these members.
fn offer(from: MemberId, to: MemberId) -> PeerMessage {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    // The kind of frames of messages.
    frame[8] = 1;
    let length = u32::try_from(OFFER.len()).expect("it is short");
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(OFFER);
    frame[..4].copy_from_slice(&(length + 4).to_le_bytes());
    let crc = crc32fast::hash(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    match next_frame(&mut BytesMut::from(&frame[..])) {
        Ok(Some(Frame::Messages(mut messages))) if messages.len() == 1 => {
            let mut offer = messages.pop().expect("just seen");
            (offer.from, offer.to) = (from.get(), to.get());
            offer
        }
        other => panic!("{other:?}"),
    }
}

/// Sends member 0 a snapshot as member 2: `chunk` is the frame of all its bytes. What member 0 says to it.
fn send(cluster: &Cluster, (own, to): (MemberId, MemberId), id: ClusterId, chunk: &[u8]) -> Frame {
    let host = cluster.nodes[0].peer_url.strip_prefix("http://").expect("a URL");
    let mut stream = TcpStream::connect(host).expect("member 0 listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let handshake = Handshake {
        cluster: id,
        from: own,
        to,
        protocol: PROTOCOL_VERSION,
        peer_urls: vec![cluster.nodes[2].peer_url.clone()],
        standing: Standing::default(),
        purpose: Purpose::Snapshot { bytes: FILE_BYTES as u64 },
    };
    let mut bytes = Vec::new();
    render_request(&mut bytes, host, &handshake);
    let mut outbox = Outbox::default();
    outbox.push(&offer(own, to)).expect("it is short");
    let mut frames = Vec::new();
    outbox.take(&mut frames);
    bytes.extend_from_slice(&frames);
    bytes.extend_from_slice(chunk);
    stream.write_all(&bytes).expect("member 0 reads");
    let (mut head, mut inbox, mut buffer) = (Vec::new(), BytesMut::new(), [0; 4096]);
    let mut is_accepted = false;
    loop {
        let read = stream.read(&mut buffer).expect("an answer");
        assert_ne!(read, 0, "the stream ended without a verdict; member 0 logged: {}", cluster.log(0));
        if is_accepted {
            inbox.extend_from_slice(&buffer[..read]);
        } else {
            head.extend_from_slice(&buffer[..read]);
            let Some(answer) = parse_answer(&head).expect("an answer of HTTP") else { continue };
            assert_eq!(answer.status, 101, "{}", String::from_utf8_lossy(&head));
            inbox.extend_from_slice(&head[answer.head_bytes..]);
            is_accepted = true;
        }
        if let Some(frame) = next_frame(&mut inbox).expect("a frame") {
            return frame;
        }
    }
}

#[test]
fn a_damaged_snapshot_is_refused_and_leaves_nothing() {
    let mut cluster = Cluster::new(3, &[]);
    let initial = cluster.initial(&[0, 1, 2]);
    cluster.spawn(0, &initial, &[]);
    cluster.spawn(1, &initial, &[]);
    cluster.wait_until_served(0);
    let number = |hex: &str| u64::from_str_radix(hex, 16).expect("an id");
    let member = |member: usize| {
        let members = cluster.request(0, "GET", "/v2/members", "").expect("an answer").json();
        let url = &cluster.nodes[member].peer_url;
        let all = members["members"].as_array().expect("members");
        let found = all.iter().find(|member| member["peerURLs"][0] == **url).expect("a member");
        MemberId::new(number(found["id"].as_str().expect("an id")))
    };
    let answer = cluster.request(0, "GET", "/v2/keys/", "").expect("an answer");
    let id = ClusterId::new(number(answer.header("x-etcd-cluster-id").expect("a cluster id")));
    let ids = (member(2), member(0));
    let mut sound = Vec::new();
    append_chunk(&mut sound, |out| {
        out.extend_from_slice(&[7; FILE_BYTES]);
        Ok::<(), ()>(())
    })
    .expect("it always succeeds");
    let mut flipped = sound.clone();
    flipped[FILE_BYTES / 2] ^= 1;
    // The first is damaged on its way; the second arrives as it was sent, and is no snapshot.
    let reasons = ["the checksum of a frame does not match", "it does not end like a snapshot"];
    for (chunk, reason) in [flipped, sound].into_iter().zip(reasons) {
        assert_eq!(send(&cluster, ids, id, &chunk), Frame::Stored(false));
        let refused = format!("the snapshot from member {} was not received: ", ids.0);
        wait_for("it to say why", || {
            cluster.log(0).lines().any(|line| line.contains(&refused) && line.ends_with(reason)).then_some(())
        });
        let snap = cluster.nodes[0].data_dir.join("member/snap");
        let left: Vec<_> = snap.read_dir().expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let written = cluster.request(0, "PUT", "/v2/keys/a", "value=1").expect("an answer");
    assert_eq!(written.status, 201, "{written:?}");
}
