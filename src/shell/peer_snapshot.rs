//! Snapshots between members: a file, streamed in chunks beside the messages, checked and durable before raft hears of
//! it.
//!
//! Owns: both ends of the transfer. Touches: the snapshot directory, on blocking threads only.
//!
//! Invariants:
//! 1. The sender reads an open file, so retention may remove its name meanwhile: the bytes stay until it is closed.
//! 2. The receiver writes a temporary file; it gets the snapshot's name only when every checksum in it holds, it is of
//!    this cluster and of the entry announced, and its bytes are durable. Then the directory is made durable, and only
//!    then the node is told.
//! 3. The sender never has more than one chunk in memory, and rests between chunks: [`CHUNK_PAUSE`].

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use glommio::timer::Timer;
use ringd_storage::format::{SnapshotMarker, TEMPORARY_SUFFIX};
use ringd_storage::fs::{FsFile, FsMedium};
use ringd_storage::ids::{ClusterId, MemberId};
use ringd_storage::medium::{Access, Medium as _, StoredFile as _};
use ringd_storage::snapshot::{SnapshotReader, snapshot_name};

use super::connection::{self, Conn};
use super::driver::Hub;
use super::peers::Peer;
use super::tls::Stream;
use super::{clock, dial, peer_in, peer_out};
use crate::core::event::Input;
use crate::core::replica::PeerMessage;
use crate::wire::peer_frame::{
    Class, Frame, FrameError, Outbox, addressee, append_chunk, append_stored, classify, next_frame, sender,
};
use crate::wire::peer_handshake::Purpose;

/// Read, checked and sent at once: about 50 µs of the loop for the copy into the socket.
const CHUNK_BYTES: usize = 128 << 10;
/// Rest after each chunk: about 60 MB/s at most, so that appends and heartbeats find the link and the disk free.
const CHUNK_PAUSE: Duration = Duration::from_millis(2);
/// A transfer that makes no progress for so long has failed.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// The receiver checks the whole file before it answers; that takes a second per few gigabytes.
const VERDICT_LIMIT: Duration = Duration::from_secs(120);
/// A sender that cannot begin tells raft after this, so that raft does not ask again at once.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Sends snapshots as raft asks for them, each on a stream of its own.
pub async fn send_all(hub: Rc<Hub>, directory: FsMedium) {
    loop {
        hub.peers.snapshots_wanted.wait().await;
        for message in hub.peers.snapshots.take() {
            let (hub, directory) = (Rc::clone(&hub), directory.clone());
            glommio::spawn_local(async move {
                let to = addressee(&message);
                let begun = clock::monotonic();
                let sent = send(&hub, &directory, &message).await;
                match &sent {
                    Ok(bytes) => {
                        let milliseconds = begun.elapsed().as_millis();
                        tracing::info!(bytes, milliseconds, "database snapshot was sent to member {to}");
                    }
                    Err(error) => {
                        tracing::warn!("database snapshot failed to be sent to member {to} ({error})");
                        Timer::new(RETRY_PAUSE).await;
                    }
                }
                hub.input(Input::SnapshotSent { to, ok: sent.is_ok() });
            })
            .detach();
        }
    }
}

async fn send(hub: &Rc<Hub>, directory: &FsMedium, message: &PeerMessage) -> io::Result<u64> {
    let Class::Snapshot { index, term } = classify(message) else { unreachable!("only snapshots are queued here") };
    let name = snapshot_name(SnapshotMarker { index, term });
    let to = addressee(message);
    let peer = hub.peers.get(to).ok_or(io::ErrorKind::NotFound)?;
    tracing::info!("start to send database snapshot {name} to member {to}");
    let medium = directory.clone();
    let (file, total) = glommio::executor()
        .spawn_blocking(move || {
            let file = medium.open(&name, Access::Read)?;
            let bytes = file.len_bytes()?;
            Ok::<_, io::Error>((file, bytes))
        })
        .await?;
    let (mut stream, rest) = open_any(hub, &peer, total).await?;
    let (mut head, mut bytes) = (Outbox::default(), Vec::new());
    head.push(message).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    head.take(&mut bytes);
    dial::limited(STALL_LIMIT, dial::send(&mut stream, &bytes)).await?;
    pour(&file, total, bytes, async |chunk| dial::limited(STALL_LIMIT, dial::send(&mut stream, chunk)).await).await?;
    let answer = async {
        let mut inbox = BytesMut::from(&rest[..]);
        loop {
            match next_frame(&mut inbox).map_err(invalid)? {
                Some(Frame::Stored(true)) => return Ok(()),
                Some(_) => return Err(io::Error::other("the receiver could not use it")),
                None => {}
            }
            let mut more = Vec::new();
            if dial::receive(&mut stream, &mut more).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            inbox.extend_from_slice(&more);
        }
    };
    dial::limited(VERDICT_LIMIT, answer).await?;
    Ok(total)
}

/// Opens a stream for a snapshot at the first of the peer's URLs that takes it.
async fn open_any(hub: &Rc<Hub>, peer: &Peer, bytes: u64) -> io::Result<(Stream, Vec<u8>)> {
    let mut failure = io::ErrorKind::AddrNotAvailable.into();
    for url in peer.urls() {
        match peer_out::open(hub, peer.id, &url, Purpose::Snapshot { bytes }).await {
            Ok(opened) => return Ok(opened),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Gives `total` bytes of the file to `send`, a frame at a time, at [`CHUNK_PAUSE`]'s pace.
async fn pour(
    file: &FsFile,
    total: u64,
    mut buffer: Vec<u8>,
    mut send: impl AsyncFnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut offset = 0;
    while offset < total {
        let length = usize::try_from(total - offset).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let file = file.clone();
        buffer = glommio::executor().spawn_blocking(move || read_chunk(&file, offset, length, buffer)).await?;
        send(&buffer).await?;
        offset += length as u64;
        Timer::new(CHUNK_PAUSE).await;
    }
    Ok(())
}

/// Blocking: a chunk as a frame.
fn read_chunk(file: &FsFile, offset: u64, length: usize, mut out: Vec<u8>) -> io::Result<Vec<u8>> {
    out.clear();
    append_chunk(&mut out, |out| {
        let start = out.len();
        out.resize(start + length, 0);
        let read = file.read_at(&mut out[start..], offset)?;
        if read == length { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
    })?;
    Ok(out)
}

fn invalid(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Receives a snapshot of `total` bytes and tells the sender and the node what became of it.
///
/// # Errors
/// What ended the connection.
pub async fn receive(
    hub: &Rc<Hub>,
    conn: &Rc<Conn>,
    stream: &mut Stream,
    from: MemberId,
    (mut inbox, total): (BytesMut, u64),
) -> io::Result<()> {
    let begun = clock::monotonic();
    let stored = store(hub, conn, stream, from, (&mut inbox, total)).await;
    append_stored(&mut conn.out(), stored.is_ok());
    match stored {
        Ok(message) => {
            tracing::info!(
                bytes = total,
                milliseconds = begun.elapsed().as_millis(),
                "received database snapshot from member {from}"
            );
            hub.hear(std::iter::once(message));
        }
        Err(error) => tracing::warn!("the snapshot from member {from} was not received: {error}"),
    }
    connection::finish(hub, conn, stream).await
}

async fn store(
    hub: &Rc<Hub>,
    conn: &Rc<Conn>,
    stream: &mut Stream,
    from: MemberId,
    (inbox, total): (&mut BytesMut, u64),
) -> io::Result<PeerMessage> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let own = hub.node.borrow().config().id;
    let message = match next(hub, conn, stream, inbox).await? {
        Frame::Messages(messages) => match <[PeerMessage; 1]>::try_from(messages) {
            Ok([message]) if addressee(&message) == own && sender(&message) == from => message,
            _ => return Err(bad("it does not begin with its description")),
        },
        _ => return Err(bad("it does not begin with its description")),
    };
    let Class::Snapshot { index, term } = classify(&message) else {
        return Err(bad("it does not begin with its description"));
    };
    let marker = SnapshotMarker { index, term };
    let directory = hub.snapshot_directory();
    let temporary = format!("{}{TEMPORARY_SUFFIX}", snapshot_name(marker));
    let (medium, name) = (directory.clone(), temporary.clone());
    let file = glommio::executor()
        .spawn_blocking(move || {
            if medium.list()?.contains(&name) {
                medium.remove(&name)?;
            }
            medium.create(&name)
        })
        .await?;
    let received = fill(hub, conn, stream, inbox, (&file, total)).await;
    let cluster = hub.node.borrow().config().cluster;
    let published = match received {
        Ok(()) => {
            glommio::executor().spawn_blocking(move || publish(&directory, &temporary, marker, cluster, &file)).await
        }
        Err(error) => {
            glommio::executor().spawn_blocking(move || directory.remove(&temporary)).await?;
            Err(error)
        }
    };
    published.map(|()| message)
}

/// Writes chunks until all bytes are there.
async fn fill(
    hub: &Rc<Hub>,
    conn: &Rc<Conn>,
    stream: &mut Stream,
    inbox: &mut BytesMut,
    (file, total): (&FsFile, u64),
) -> io::Result<()> {
    let mut offset = 0;
    while offset < total {
        let Frame::Chunk(chunk) = next(hub, conn, stream, inbox).await? else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of another stream"));
        };
        let length = chunk.len() as u64;
        if length == 0 || length > total - offset {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk beyond the file"));
        }
        let file = file.clone();
        glommio::executor().spawn_blocking(move || write_chunk(&file, &chunk, offset)).await?;
        offset += length;
    }
    Ok(())
}

fn write_chunk(file: &FsFile, chunk: &Bytes, offset: u64) -> io::Result<()> {
    file.write_at(chunk, offset)
}

/// The next frame, within the time a transfer may stand still.
async fn next(hub: &Rc<Hub>, conn: &Rc<Conn>, stream: &mut Stream, inbox: &mut BytesMut) -> io::Result<Frame> {
    let arrives = async {
        loop {
            if let Some(frame) = next_frame(inbox).map_err(invalid)? {
                return Ok(frame);
            }
            if !peer_in::receive_or_poked(hub, conn, stream, inbox).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if hub.is_stopping() {
                return Err(io::Error::other("this member stops"));
            }
        }
    };
    dial::limited(STALL_LIMIT, arrives).await
}

/// Blocking: checks everything, makes it durable, gives it its name. What cannot be used is removed.
fn publish(
    medium: &FsMedium,
    temporary: &str,
    marker: SnapshotMarker,
    cluster: ClusterId,
    file: &FsFile,
) -> io::Result<()> {
    let check = || -> io::Result<()> {
        let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let reader = SnapshotReader::open(medium, temporary).map_err(|error| bad(error.to_string()))?;
        if reader.meta().marker != marker || reader.meta().identity.cluster != cluster {
            return Err(bad("it is not the snapshot that was announced".to_owned()));
        }
        reader
            .for_each(|_, _| Ok::<(), ringd_storage::snapshot::SnapshotError>(()))
            .map_err(|error| bad(error.to_string()))?;
        file.sync_data()
    };
    if let Err(error) = check() {
        let _ = medium.remove(temporary);
        return Err(error);
    }
    medium.rename(temporary, &snapshot_name(marker))?;
    medium.sync_dir()
}

#[cfg(test)]
mod tests {
    use ringd_storage::format::Identity;
    use ringd_storage::ids::{EtcdIndex, RaftIndex, Term, UnixNanos};
    use ringd_storage::snapshot::{SnapshotMeta, SnapshotWriter, push_item};

    use super::*;
    use crate::shell::executor;

    const CLUSTER: ClusterId = ClusterId::new(7);
    const MARKER: SnapshotMarker = SnapshotMarker { index: RaftIndex::new(9), term: Term::new(2) };
    const TEMPORARY: &str = "received.tmp";

    /// A medium, and the bytes of a snapshot of a few items.
    fn medium() -> (tempfile::TempDir, FsMedium, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let medium = FsMedium::open(directory.path()).unwrap();
        let meta = SnapshotMeta {
            identity: Identity { cluster: CLUSTER, member: MemberId::new(1) },
            marker: MARKER,
            etcd_index: EtcdIndex::new(5),
            voters: vec![MemberId::new(1)],
            learners: Vec::new(),
            items: 0,
            created: UnixNanos::ZERO,
        };
        let (mut writer, mut chunk) = (SnapshotWriter::new(meta), Vec::new());
        for key in 0..20_u8 {
            push_item(&mut chunk, &[&[key]], |out| out.extend_from_slice(&[key; 50]));
        }
        writer.push_chunk(chunk);
        let mut publish = writer.into_publish(medium.clone());
        while publish.step(&mut || {}).unwrap().is_some() {}
        let name = snapshot_name(MARKER);
        let bytes = std::fs::read(directory.path().join(&name)).unwrap();
        medium.remove(&name).unwrap();
        (directory, medium, bytes)
    }

    /// What becomes of a file of these bytes that was received.
    fn publish_received(medium: &FsMedium, bytes: &[u8], marker: SnapshotMarker, cluster: ClusterId) -> io::Result<()> {
        let file = medium.create(TEMPORARY)?;
        write_chunk(&file, &Bytes::copy_from_slice(bytes), 0)?;
        publish(medium, TEMPORARY, marker, cluster, &file)
    }

    #[test]
    fn what_was_announced_gets_its_name_when_it_is_whole() {
        let (_directory, medium, bytes) = medium();
        publish_received(&medium, &bytes, MARKER, CLUSTER).unwrap();
        assert_eq!(medium.list().unwrap(), [snapshot_name(MARKER)]);
    }

    #[test]
    fn a_flipped_byte_anywhere_is_refused_and_leaves_nothing() {
        let (_directory, medium, bytes) = medium();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            let error = publish_received(&medium, &damaged, MARKER, CLUSTER).expect_err("it is damaged");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {at}: {error}");
            assert_eq!(medium.list().unwrap(), [""; 0], "byte {at}");
        }
        for end in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            publish_received(&medium, &bytes[..end], MARKER, CLUSTER).expect_err("it is cut off");
            assert_eq!(medium.list().unwrap(), [""; 0], "{end} bytes");
        }
    }

    #[test]
    fn a_snapshot_of_another_entry_or_cluster_is_refused() {
        let (_directory, medium, bytes) = medium();
        let later = SnapshotMarker { index: MARKER.index.next(), ..MARKER };
        for (marker, cluster) in [(later, CLUSTER), (MARKER, ClusterId::new(8))] {
            let error = publish_received(&medium, &bytes, marker, cluster).expect_err("it is another one");
            assert_eq!(error.to_string(), "it is not the snapshot that was announced");
            assert_eq!(medium.list().unwrap(), [""; 0]);
        }
    }

    #[test]
    fn a_file_leaves_in_chunks_with_a_rest_after_each() {
        const CHUNKS: u32 = 20;
        // It never goes to sleep: the linker seam that ends glommio's naps (`ring_seam.rs`) is not in this program.
        const AWAKE: Duration = Duration::from_secs(3600);
        let directory = tempfile::tempdir().unwrap();
        let medium = FsMedium::open(directory.path()).unwrap();
        let file = medium.create("file").unwrap();
        let total = CHUNKS as usize * CHUNK_BYTES - 77;
        let contents: Vec<u8> = (0..total).map(|at| (at / 1000) as u8).collect();
        file.write_at(&contents, 0).unwrap();
        let mut sent = Vec::new();
        let begun = clock::monotonic();
        executor::build(AWAKE).unwrap().run(async {
            let send = async |chunk: &[u8]| {
                sent.push(chunk.to_vec());
                Ok(())
            };
            pour(&file, total as u64, Vec::new(), send).await.unwrap();
        });
        let took = begun.elapsed();
        assert!(took >= CHUNK_PAUSE * CHUNKS, "{CHUNKS} chunks took {took:?}");
        let mut received = Vec::new();
        for frame in &sent {
            let mut inbox = BytesMut::from(&frame[..]);
            let Ok(Some(Frame::Chunk(chunk))) = next_frame(&mut inbox) else { panic!("not one chunk") };
            assert!(inbox.is_empty() && chunk.len() <= CHUNK_BYTES);
            received.extend_from_slice(&chunk);
        }
        assert_eq!(sent.len(), CHUNKS as usize);
        assert!(received == contents, "other bytes arrived than were sent");
    }
}
