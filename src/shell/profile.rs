//! `/debug/pprof/`: where the processor's time goes, for `go tool pprof` and flame graphs. Served with `--enable-pprof`.
//!
//! Owns: the one profile that may be under way. Touches: the process' SIGPROF timer, by the `pprof` crate; nothing of the
//! node.
//!
//! Must hold: samples are gathered, named and packed on a thread of their own, so that the loop goes on; there is one
//! profile at a time, no longer than [`SECONDS_MAX`]; a client that leaves, and a stop, end it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_channel::oneshot;
use futures_lite::future::or;
use pprof::protos::Message as _;

use super::clock;
use super::connection::{Conn, Input, OUT_HIGH_BYTES, Woke, read_or_wake};
use super::connections::Turn;
use super::driver::Hub;
use super::respond::{Dispatch, Reply, Responder};
use super::tls::Stream;
use crate::wire::http_reply::{HTML, ReplyHead, TEXT, append_reply_bytes};

/// A longer profile is a slip; perf is there for those who mean it.
const SECONDS_MAX: i64 = 300;
/// Go's default.
const SECONDS_DEFAULT: i64 = 30;
/// Samples per second of processor time; not a hundred, so that they do not fall in step with ticks.
const SAMPLES_PER_SECOND: i32 = 99;
/// Parts of the address space whose samples are left out: a backtrace begun within the unwinder, or without unwind
/// tables, could go astray.
const NO_SAMPLES_IN: &[&str] = &["libgcc", "ld-linux", "vdso"];
/// Go's words for a profile beside another.
const BUSY: &str = "Could not enable CPU profiling: cpu profiling already in use";
const PACKED: &str = "application/octet-stream";

const INDEX: &[u8] = b"<html>\n<head><title>/debug/pprof/</title></head>\n<body>\n<p>/debug/pprof/</p>\n<ul>\n\
    <li><a href=\"cmdline\">cmdline</a>: the command line, its words separated by NUL</li>\n\
    <li><a href=\"profile?seconds=10\">profile</a>: processor time for <code>go tool pprof</code>; seconds=1 to 300</li>\n\
    <li><a href=\"profile?seconds=10&amp;debug=1\">profile?debug=1</a>: the same as text, one stack per line, as flame \
    graph tools read it</li>\n</ul>\n</body>\n</html>\n";

/// Whether profiles are served, and whether one is under way.
#[derive(Debug)]
pub struct Profiler {
    enabled: bool,
    busy: Cell<bool>,
}

impl Profiler {
    /// None is under way.
    #[must_use]
    pub const fn new(enabled: bool) -> Self {
        Self { enabled, busy: Cell::new(false) }
    }

    /// `--enable-pprof`.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.enabled
    }
}

/// A profile to take.
#[derive(Debug)]
pub struct ProfilePlan {
    seconds: u32,
    /// `debug=1`: as text.
    folded: bool,
    /// How to answer.
    pub reply: Reply,
}

impl Responder {
    /// Answers `/debug/pprof/`; `None` for what is not there.
    pub(super) fn pprof(
        &self,
        hub: &Hub,
        out: &mut Vec<u8>,
        rest: &[u8],
        query: &[u8],
        reply: Reply,
    ) -> Option<Dispatch> {
        match rest {
            b"" => self.page(out, 200, HTML, INDEX, reply),
            b"cmdline" => {
                let words: Vec<_> =
                    std::env::args_os().map(std::os::unix::ffi::OsStringExt::into_vec).collect::<Vec<Vec<u8>>>();
                self.page(out, 200, TEXT, &words.join(&0), reply);
            }
            b"profile" if hub.profiler.busy.get() => self.sorry(out, 500, BUSY, reply),
            b"profile" => match seconds(query) {
                Ok(seconds) => {
                    let folded = query.split(|&byte| byte == b'&').any(|pair| pair == b"debug=1");
                    return Some(Dispatch::Profile(ProfilePlan { seconds, folded, reply }));
                }
                Err(why) => self.sorry(out, 400, &why, reply),
            },
            _ => return None,
        }
        Some(Dispatch::Answered)
    }

    fn page(&self, out: &mut Vec<u8>, status: u16, content_type: &str, body: &[u8], reply: Reply) {
        let date = self.date(clock::now());
        let head = ReplyHead { content_type, nosniff: true, ..self.head(status, reply, &date) };
        append_reply_bytes(out, &head, body);
    }

    fn sorry(&self, out: &mut Vec<u8>, status: u16, why: &str, reply: Reply) {
        self.page(out, status, TEXT, format!("{why}\n").as_bytes(), reply);
    }
}

/// `seconds=N`; as in Go, what is no positive number is the default.
fn seconds(query: &[u8]) -> Result<u32, String> {
    let given = query.split(|&byte| byte == b'&').find_map(|pair| pair.strip_prefix(b"seconds="));
    let given = given.and_then(|text| std::str::from_utf8(text).ok()?.parse::<i64>().ok());
    match given.filter(|&seconds| seconds > 0).unwrap_or(SECONDS_DEFAULT) {
        seconds if seconds > SECONDS_MAX => Err(format!("a profile may take at most {SECONDS_MAX} seconds")),
        seconds => Ok(u32::try_from(seconds).expect("at most the limit")),
    }
}

/// Takes a profile and renders the answer.
pub(super) async fn take(
    hub: &Rc<Hub>,
    conn: &Rc<Conn>,
    stream: &mut Stream,
    input: &mut Input,
    plan: &ProfilePlan,
) -> io::Result<()> {
    if hub.profiler.busy.get() {
        hub.responder.sorry(&mut conn.out(), 500, BUSY, plan.reply);
        return Ok(());
    }
    let _turn = Turn::take(&hub.profiler.busy);
    // Dropped when the client leaves, which ends the thread.
    let (_client, client_left) = mpsc::channel();
    let (sender, receiver) = oneshot::channel();
    let (duration, folded) = (Duration::from_secs(plan.seconds.into()), plan.folded);
    std::thread::Builder::new().name("profile".to_owned()).spawn(move || {
        let _ = sender.send(sample(duration, folded, &client_left));
    })?;
    tracing::info!("taking a profile of {duration:?}");
    let mut receiver = pin!(receiver);
    let taken = loop {
        let done = async { Ok(Some(receiver.as_mut().await)) };
        let woken = async {
            if input.waiting() < OUT_HIGH_BYTES {
                read_or_wake(hub, conn, stream, input).await.map(|woke| match woke {
                    Woke::End => Some(Ok(Err("the client left".to_owned()))),
                    Woke::Bytes | Woke::Poked => None,
                })
            } else {
                conn.wake.wait().await;
                Ok(None)
            }
        };
        match or(done, woken).await? {
            Some(taken) => break taken.unwrap_or_else(|_| Err("the profiler ended".to_owned())),
            None if hub.is_closing(conn.audience()) => break Err("the server is stopping".to_owned()),
            None => {}
        }
    };
    let mut out = conn.out();
    match taken {
        Ok(bytes) => hub.responder.page(&mut out, 200, if folded { TEXT } else { PACKED }, &bytes, plan.reply),
        Err(why) => hub.responder.sorry(&mut out, 500, &format!("Could not enable CPU profiling: {why}"), plan.reply),
    }
    Ok(())
}

/// Blocking, for as long as the profile takes.
fn sample(duration: Duration, folded: bool, client_left: &mpsc::Receiver<()>) -> Result<Vec<u8>, String> {
    let text = |error: pprof::Error| error.to_string();
    let guard = pprof::ProfilerGuardBuilder::default().frequency(SAMPLES_PER_SECOND).blocklist(NO_SAMPLES_IN);
    let guard = guard.build().map_err(text)?;
    if client_left.recv_timeout(duration) != Err(mpsc::RecvTimeoutError::Timeout) {
        return Err("the client left".to_owned());
    }
    let report = guard.report().build().map_err(text)?;
    drop(guard);
    if folded {
        return Ok(fold(&report));
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let profile = report.pprof().map_err(text)?.encode_to_vec();
    packed.write_all(&profile).and_then(|()| packed.finish()).map_err(|error| error.to_string())
}

/// One line per stack, outermost first, with the number of its samples.
fn fold(report: &pprof::Report) -> Vec<u8> {
    let mut stacks = BTreeMap::new();
    for (stack, count) in &report.data {
        let mut line = stack.thread_name_or_id();
        for symbol in stack.frames.iter().rev().flat_map(|frame| frame.iter().rev()) {
            line.push(';');
            line.push_str(&symbol.name());
        }
        *stacks.entry(line).or_insert(0) += count;
    }
    stacks.iter().flat_map(|(line, count)| format!("{line} {count}\n").into_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read_as_go_reads_them_and_bounded() {
        for (query, expected) in [
            (&b""[..], Ok(30)),
            (b"seconds=", Ok(30)),
            (b"seconds=0", Ok(30)),
            (b"seconds=-5", Ok(30)),
            (b"seconds=x", Ok(30)),
            (b"debug=1&seconds=7", Ok(7)),
            (b"seconds=300", Ok(300)),
            (b"seconds=301", Err(())),
            (b"seconds=9223372036854775807", Err(())),
        ] {
            assert_eq!(seconds(query).map_err(|_| ()), expected, "{}", String::from_utf8_lossy(query));
        }
    }
}
