//! Where lines go: a bounded queue and a thread per place.
//!
//! Owns: the queues, what was lost, files and their reopening, journald's datagrams. May touch: stderr, stdout, files,
//! journald's socket; all writing happens on the queues' threads.
//!
//! Must always hold: putting a line into a queue takes no system call that can wait; memory is bounded by
//! [`QUEUE_LINES`] times [`LINE_BYTES_MAX`] per place; every line is either written or counted as lost.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ringd::config::log::{LogFormat, LogOutput, LogSettings};
use tracing::{Level, Metadata};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

use super::form;

/// Lines that wait for one place: some seconds of a node that complains of everything.
const QUEUE_LINES: usize = 4096;
/// What is longer is cut: only foreign text makes such lines.
const LINE_BYTES_MAX: usize = 16 << 10;
/// A flush gives up after so many looks: half a second.
const FLUSH_TRIES: u32 = 250;
/// Between two looks.
const FLUSH_PAUSE: Duration = Duration::from_millis(2);
/// Losses are told when the queue is empty, and after so many lines if it never is.
const TELL_EVERY: u64 = 1024;
/// journald's native protocol.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// A log may name keys and users.
const FILE_MODE: u32 = 0o640;

/// All places.
pub struct Places(Vec<Place>);

struct Place {
    queue: NonBlocking,
    is_journal: bool,
    books: Arc<Books>,
    /// Held, not dropped: dropping it may wait for a place that takes nothing.
    _guard: WorkerGuard,
}

/// Counts of one place.
#[derive(Default)]
struct Books {
    /// Lines put or tried to put into the queue.
    offered: AtomicU64,
    /// Lines that left the queue.
    taken: AtomicU64,
    /// Lines that left it and could not be written.
    failed: AtomicU64,
    /// Lines that found the queue full.
    full: OnceLock<ErrorCounter>,
}

impl Books {
    fn lost(&self) -> u64 {
        self.full.get().map_or(0, |full| full.dropped_lines() as u64) + self.failed.load(Ordering::Acquire)
    }

    fn is_settled(&self) -> bool {
        let full = self.full.get().map_or(0, |full| full.dropped_lines() as u64);
        self.taken.load(Ordering::Acquire) + full >= self.offered.load(Ordering::Acquire)
    }
}

impl Places {
    /// Opens every place.
    ///
    /// # Errors
    /// Which one cannot be opened, and why.
    pub fn open(settings: &LogSettings) -> io::Result<Self> {
        let open = |output: &LogOutput| -> io::Result<Place> {
            Ok(match output {
                LogOutput::Stderr => Place::new(io::stderr(), settings.format),
                LogOutput::Stdout => Place::new(io::stdout(), settings.format),
                LogOutput::Journal => Place { is_journal: true, ..Place::new(Journal::open()?, settings.format) },
                LogOutput::File(path) => Place::new(LogFile::open(path.clone())?, settings.format),
            })
        };
        settings.outputs.iter().map(open).collect::<io::Result<Vec<_>>>().map(Self)
    }

    fn line(&self, priority: u8) -> Line<'_> {
        Line { places: self, priority }
    }

    /// Waits until everything put so far is written, or for half a second.
    pub fn flush(&self) {
        for _ in 0..FLUSH_TRIES {
            if self.0.iter().all(|place| place.books.is_settled()) {
                return;
            }
            std::thread::sleep(FLUSH_PAUSE);
        }
    }

    /// Lines lost by all places.
    pub fn lost(&self) -> u64 {
        self.0.iter().map(|place| place.books.lost()).sum()
    }
}

impl Place {
    fn new(output: impl Write + Send + 'static, format: LogFormat) -> Self {
        let books = Arc::new(Books::default());
        let end = End { output, books: Arc::clone(&books), format, told: 0, since_told: 0 };
        let (queue, guard) =
            NonBlockingBuilder::default().buffered_lines_limit(QUEUE_LINES).lossy(true).thread_name("log").finish(end);
        let _ = books.full.set(queue.error_counter());
        Self { queue, is_journal: false, books, _guard: guard }
    }
}

impl MakeWriter<'_> for &'static Places {
    type Writer = Line<'static>;

    fn make_writer(&self) -> Line<'static> {
        self.line(b'6')
    }

    fn make_writer_for(&self, metadata: &Metadata<'_>) -> Line<'static> {
        // syslog's numbers.
        let priority = match *metadata.level() {
            Level::ERROR => b'3',
            Level::WARN => b'4',
            Level::INFO => b'6',
            _ => b'7',
        };
        self.line(priority)
    }
}

/// One line on its way into the queues.
pub struct Line<'a> {
    places: &'a Places,
    priority: u8,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let cut;
        let kept = if line.len() > LINE_BYTES_MAX {
            cut = [&line[..LINE_BYTES_MAX], b"...\n"].concat();
            &cut[..]
        } else {
            line
        };
        for place in &self.places.0 {
            place.books.offered.fetch_add(1, Ordering::AcqRel);
            // A full queue is counted by the queue.
            let mut queue = place.queue.clone();
            let _ = if place.is_journal { queue.write(&[&[self.priority], kept].concat()) } else { queue.write(kept) };
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The other end of a queue, on its thread.
struct End<W> {
    output: W,
    books: Arc<Books>,
    format: LogFormat,
    told: u64,
    since_told: u64,
}

impl<W: Write> End<W> {
    fn tell_losses(&mut self) {
        self.since_told = 0;
        let lost = self.books.lost();
        if lost > self.told && self.output.write_all(form::loss_line(self.format, lost).as_bytes()).is_ok() {
            self.told = lost;
        }
    }
}

impl<W: Write> Write for End<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.output.write_all(line).is_err() {
            self.books.failed.fetch_add(1, Ordering::AcqRel);
        }
        self.books.taken.fetch_add(1, Ordering::AcqRel);
        self.since_told += 1;
        if self.since_told >= TELL_EVERY {
            self.tell_losses();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tell_losses();
        // An output that cannot be flushed cannot be told so either.
        let _ = self.output.flush();
        Ok(())
    }
}

/// A file, opened again under its name after SIGHUP, so that it can be rotated away.
struct LogFile {
    path: PathBuf,
    file: File,
    reopen: Arc<AtomicBool>,
}

impl LogFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = append_to(&path)?;
        let reopen = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&reopen))?;
        Ok(Self { path, file, reopen })
    }
}

fn append_to(path: &std::path::Path) -> io::Result<File> {
    let opened = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path);
    opened.map_err(|error| io::Error::new(error.kind(), format!("cannot log to {}: {error}", path.display())))
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // The old file is better than none.
        if self.reopen.swap(false, Ordering::AcqRel)
            && let Ok(file) = append_to(&self.path)
        {
            self.file = file;
        }
        self.file.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// journald's native protocol: a datagram of fields. A line's first byte is its priority.
struct Journal(UnixDatagram);

impl Journal {
    fn open() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        let connected = socket.connect(JOURNAL);
        connected
            .map_err(|error| io::Error::new(error.kind(), format!("cannot log to journald at {JOURNAL}: {error}")))?;
        Ok(Self(socket))
    }
}

/// The datagram of a line.
fn datagram(line: &[u8]) -> Vec<u8> {
    let (priority, text) = match line {
        [priority @ b'0'..=b'7', text @ ..] => (*priority, text),
        text => (b'4', text),
    };
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut fields = b"SYSLOG_IDENTIFIER=ringd\nPRIORITY=".to_vec();
    fields.extend([priority, b'\n']);
    // The form for values that may hold line ends: name, length, value.
    fields.extend(b"MESSAGE\n");
    fields.extend((text.len() as u64).to_le_bytes());
    fields.extend(text);
    fields.push(b'\n');
    fields
}

impl Write for Journal {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.send(&datagram(line)).map(|_| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes a line when it is let.
    struct Gate(mpsc::Receiver<()>, Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Gate {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().expect("nobody panics").extend(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_place_that_takes_nothing_loses_lines_and_says_so_later() {
        let (open, gate) = mpsc::channel();
        let written = Arc::default();
        let places = Places(vec![Place::new(Gate(gate, Arc::clone(&written)), LogFormat::Text)]);
        // One line is at the gate, a queue of them behind it; not all of these fit.
        for number in 0..QUEUE_LINES + 100 {
            places.line(b'6').write_all(format!("line {number}\n").as_bytes()).expect("never fails");
        }
        let lost = places.lost();
        assert!((90..=100).contains(&lost), "{lost}");
        drop(open);
        for _ in 0..60 {
            places.flush();
            if written.lock().expect("nobody panics").ends_with(b"in time\n") {
                break;
            }
        }
        let text = String::from_utf8(written.lock().expect("nobody panics").clone()).expect("UTF-8");
        assert!(text.starts_with("line 0\nline 1\n"), "the first lines are kept");
        assert!(text.contains(&format!(" WARN {lost} log lines were lost")), "{}", &text[text.len() - 200..]);
    }

    #[test]
    fn long_lines_are_cut() {
        let (open, gate) = mpsc::channel();
        drop(open);
        let written = Arc::default();
        let places = Places(vec![Place::new(Gate(gate, Arc::clone(&written)), LogFormat::Text)]);
        places.line(b'6').write_all(&vec![b'x'; LINE_BYTES_MAX + 1]).expect("never fails");
        places.flush();
        assert_eq!(written.lock().expect("nobody panics").len(), LINE_BYTES_MAX + 4);
    }

    #[test]
    fn journald_gets_priority_and_message() {
        let mut expected = b"SYSLOG_IDENTIFIER=ringd\nPRIORITY=4\nMESSAGE\n".to_vec();
        expected.extend([3, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend(b"a\nb\n");
        assert_eq!(datagram(b"4a\nb\n"), expected);
    }
}
