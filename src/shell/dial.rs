//! From a member's URL to a connection, and plain HTTP questions between members.
//!
//! Owns: name look-ups (each on a thread of its own, so that a slow resolver delays nobody's files), connecting, limits
//! of time and size. Must hold: names are looked up again at every connect, for they may appear late or move; nothing
//! here waits longer than its limit, nor blocks the executor; a resolver that does not answer holds [`LOOK_UPS_MAX`] threads
//! at most.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::{or, poll_fn};
use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use glommio::sync::Semaphore;
use glommio::timer::Timer;

use super::tls::Stream;
use super::tls_files::Side;
use super::{raw, tls_handshake};
use crate::config::url::Url;
use crate::wire::peer_handshake::{Answer, parse_answer};

/// A connect that takes longer has failed: a second is many round trips anywhere, as in etcd.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A name that is not found by then is not there yet.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);
/// Look-ups under way; others wait for them. One takes milliseconds, so these serve thousands a second. One that is given up
/// goes on until the resolver gives up too, half a minute later, and holds a thread meanwhile.
const LOOK_UPS_MAX: u64 = 32;
/// Between two tries to connect to a socket file whose listener's queue is full.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(5);
/// A connection on which nothing was acknowledged or answered for so long is dead, as in etcd.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(5);
/// The largest answer to a plain question; a member list is a few hundred bytes per member.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// One read of an answer.
const READ_BYTES: usize = 16 << 10;

/// Connects as a URL wants it, with TLS or without.
///
/// # Errors
/// What the resolver or the kernel said; `InvalidData` with Go's words when the certificates do not do.
pub async fn reach(tls: &Side, url: &Url) -> io::Result<Stream> {
    reach_within(tls, url, CONNECT_LIMIT).await
}

/// As [`reach`]; each of the URL's addresses is tried for `limit`.
///
/// # Errors
/// As [`reach`].
pub async fn reach_within(tls: &Side, url: &Url, limit: Duration) -> io::Result<Stream> {
    let socket = connect_socket(url, limit).await?;
    if url.is_secure() { tls_handshake::dial(tls, url, socket).await } else { Ok(Stream::Plain(socket)) }
}

/// Connects a socket to the place of a URL, whatever its scheme; each of its addresses is tried for `limit`.
///
/// # Errors
/// What the resolver or the kernel said.
pub async fn connect_socket(url: &Url, limit: Duration) -> io::Result<TcpStream> {
    if let Some(path) = url.socket_path() {
        return connect_file(&path, limit).await;
    }
    let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", url.host()));
    for address in resolve(url).await? {
        match TcpStream::connect_timeout(address, limit).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                raw::watch_peer(&stream, SILENCE_LIMIT);
                return Ok(stream);
            }
            Err(error) => failure = io::Error::from(error),
        }
    }
    Err(failure)
}

/// Connects to a socket file. That is immediate, or refused, unless as many wait for the listener to accept as it lets
/// wait: a busy one has room again in a moment, one that is stopped has not.
async fn connect_file(path: &Path, limit: Duration) -> io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let connected = async {
        while let Err(error) = connect(&socket, &address) {
            if error != rustix::io::Errno::AGAIN {
                return Err(io::Error::from(error));
            }
            Timer::new(FULL_QUEUE_PAUSE).await;
        }
        Ok(())
    };
    limited(limit, connected).await.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => {
            let why = format!("{} has too many connections that it did not accept", path.display());
            io::Error::new(error.kind(), why)
        }
        _ => error,
    })?;
    // The ring waits for sockets by itself, but not for those that say they never block.
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(raw::adopt_stream(socket))
}

async fn resolve(url: &Url) -> io::Result<Vec<SocketAddr>> {
    let port = url.port().ok_or(io::ErrorKind::InvalidInput)?;
    if let Some(address) = url.address() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    look_up(url.host().to_owned(), port).await
}

/// The addresses of a name.
///
/// # Errors
/// What the resolver said, or `TimedOut`.
pub async fn look_up(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    thread_local!(static LOOK_UPS: Rc<Semaphore> = Rc::new(Semaphore::new(LOOK_UPS_MAX)));
    let ask = move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
    ask_on_a_thread(&LOOK_UPS.with(Rc::clone), RESOLVE_LIMIT, ask).await
}

/// Runs `ask` on a thread of its own, when there are not too many already. Who is given up keeps its place until it ends.
async fn ask_on_a_thread<T: Send + 'static>(
    places: &Rc<Semaphore>,
    limit: Duration,
    ask: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let has_place = Cell::new(false);
    let answered = async {
        let place = places.acquire_static_permit(1).await?;
        has_place.set(true);
        let (sender, receiver) = futures_channel::oneshot::channel();
        std::thread::Builder::new().name("resolve".to_owned()).spawn(move || sender.send(ask()))?;
        let ended = glommio::spawn_local(async move {
            let answer = receiver.await;
            drop(place);
            answer
        });
        // Detached: it outlives whoever waits for it.
        let answer = ended.detach().await.and_then(Result::ok);
        answer.unwrap_or_else(|| Err(io::ErrorKind::Interrupted.into()))
    };
    limited(limit, answered).await.map_err(|error| {
        if has_place.get() {
            return error;
        }
        io::Error::new(
            error.kind(),
            format!("{LOOK_UPS_MAX} look-ups are under way, which the resolver does not answer"),
        )
    })
}

/// Gives up on `work` after `limit`.
///
/// # Errors
/// `TimedOut`, or the work's own.
pub async fn limited<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let tired = async {
        Timer::new(limit).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    or(work, tired).await
}

/// Sends all of `bytes`.
///
/// # Errors
/// The kernel's.
pub async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        match poll_fn(|context| Pin::new(&mut *stream).poll_write(context, &bytes[sent..])).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            more => sent += more,
        }
    }
    Ok(())
}

/// Appends what arrives next; how many bytes, 0 at the end of the stream.
///
/// # Errors
/// The kernel's.
pub async fn receive<S: AsyncRead + Unpin>(stream: &mut S, into: &mut Vec<u8>) -> io::Result<usize> {
    let before = into.len();
    into.resize(before + READ_BYTES, 0);
    let read = poll_fn(|context| Pin::new(&mut *stream).poll_read(context, &mut into[before..])).await;
    into.truncate(before + *read.as_ref().unwrap_or(&0));
    read
}

/// Reads the head of an answer. What follows it in `bytes` has arrived already.
///
/// # Errors
/// The kernel's, or `InvalidData` when it is no HTTP.
pub async fn answer<S: AsyncRead + Unpin>(stream: &mut S, bytes: &mut Vec<u8>) -> io::Result<Answer> {
    loop {
        let parsed = parse_answer(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if let Some(answer) = parsed {
            return Ok(answer);
        }
        if receive(stream, bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Asks a question: `GET path`. The answer and its body.
///
/// # Errors
/// The resolver's, the kernel's, `TimedOut` after `limit`, `InvalidData` for an answer that is no HTTP or too long.
pub async fn get(tls: &Side, url: &Url, path: &str, limit: Duration) -> io::Result<(Answer, Vec<u8>)> {
    let exchange = async {
        let mut stream = reach(tls, url).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", url.host_port());
        send(&mut stream, request.as_bytes()).await?;
        let mut bytes = Vec::new();
        let head = answer(&mut stream, &mut bytes).await?;
        let mut body = bytes.split_off(head.head_bytes);
        let length = head.length.map_or(usize::MAX, |length| usize::try_from(length).unwrap_or(usize::MAX));
        while body.len() < length {
            if body.len() > ANSWER_BYTES_MAX || head.chunked {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
            }
            if receive(&mut stream, &mut body).await? == 0 {
                break;
            }
        }
        Ok((head, body))
    };
    limited(limit, exchange).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        glommio::LocalExecutorBuilder::default().make().expect("an executor").run(work)
    }

    #[test]
    fn a_socket_file_that_nobody_accepts_from_is_given_up_and_blocks_nothing() {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("full");
        let address = SocketAddrUnix::new(&path).expect("an address");
        let socket = || socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None);
        let listener = socket().expect("a socket");
        bind(&listener, &address).and_then(|()| listen(&listener, 0)).expect("a listener");
        let mut waiting = Vec::new();
        let full = loop {
            let socket = socket().expect("a socket");
            match connect(&socket, &address) {
                Ok(()) => waiting.push(socket),
                Err(error) => break error,
            }
            assert!(waiting.len() < 100, "the queue never fills");
        };
        assert_eq!(full, rustix::io::Errno::AGAIN);

        // On a thread of its own: a connect that blocks would never end.
        let (sender, receiver) = std::sync::mpsc::channel();
        let tried = path.clone();
        std::thread::spawn(move || {
            let tried = run(async { connect_file(&tried, Duration::from_millis(50)).await.map(drop) });
            let _ = sender.send(tried);
        });
        let error = receiver.recv_timeout(Duration::from_secs(60)).expect("it ends").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("did not accept"), "{error}");

        // When there is room again, bytes go both ways.
        let accepted = std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            rustix::io::ioctl_fionbio(&listener, false).expect("it may block");
            for _ in &waiting {
                rustix::net::accept(&listener).expect("one that waited");
            }
            let last = rustix::net::accept(&listener).expect("the last");
            let mut last = std::os::unix::net::UnixStream::from(last);
            let mut question = [0; 4];
            last.read_exact(&mut question).expect("a question");
            std::thread::sleep(Duration::from_millis(20));
            last.write_all(b"yes").expect("sent");
            question
        });
        let answer = run(async {
            let mut stream = connect_file(&path, Duration::from_secs(60)).await.expect("a connection");
            send(&mut stream, b"now?").await.expect("sent");
            let mut bytes = Vec::new();
            while receive(&mut stream, &mut bytes).await.expect("an answer") > 0 {}
            bytes
        });
        assert_eq!((answer.as_slice(), &accepted.join().expect("no panic")), (&b"yes"[..], b"now?"));
    }

    #[test]
    fn a_resolver_that_does_not_answer_holds_few_threads() {
        let (asked, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let ask = || {
            let (asked, answers) = (Arc::clone(&asked), Arc::clone(&answers));
            move || {
                asked.fetch_add(1, Ordering::SeqCst);
                while !answers.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            }
        };
        run(async {
            let places = Rc::new(Semaphore::new(2));
            for attempt in 0..6 {
                let error = ask_on_a_thread(&places, Duration::from_millis(20), ask()).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                assert_eq!(error.to_string().contains("are under way"), attempt >= 2, "{error}");
            }
            answers.store(true, Ordering::SeqCst);
            // Those that were given up end, and make room.
            for _ in 0..4 {
                ask_on_a_thread(&places, Duration::from_secs(60), ask()).await.expect("an answer");
            }
            let _all_ended = places.acquire_permit(2).await.expect("the places stay");
        });
        assert_eq!(asked.load(Ordering::SeqCst), 2 + 4);
    }
}
