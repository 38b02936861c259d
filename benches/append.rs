//! What one append costs the loop: framing, checksum and copy, on memory that is always resident (the code's own
//! cost) and on a mapped segment (with its page faults). Targets: 40 ns at 128 B, 100 ns at 1 KiB, without faults.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringd_storage::format::{Identity, frame_crc};
use ringd_storage::fs::FsMedium;
use ringd_storage::ids::{ClusterId, MemberId, RaftIndex, Term};
use ringd_storage::medium::{Access, Medium, StoredFile};
use ringd_storage::prepare::prepare_spare;
use ringd_storage::record::{EntryKind, EntryRef};
use ringd_storage::region::Region;
use ringd_storage::wal::{Wal, WalOptions};

const IDENTITY: Identity = Identity { cluster: ClusterId::new(1), member: MemberId::new(2) };
/// Appends timed at once, so that reading the clock does not count.
const BATCH: u64 = 256;

/// The window of memory that resident stores wrap around in; stays in the second-level cache.
const RESIDENT_BYTES: usize = 256 << 10;

/// A medium whose stores land in one small buffer: no file, no fault.
#[derive(Clone, Debug)]
struct Resident;

#[derive(Clone, Debug)]
struct ResidentFile;

#[derive(Debug)]
struct ResidentRegion(Vec<u8>, u64);

impl Region for ResidentRegion {
    fn len_bytes(&self) -> u64 {
        self.1
    }
    fn store(&mut self, offset: u64, bytes: &[u8]) {
        let at = offset as usize & (RESIDENT_BYTES - 1);
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn prefault(&mut self, _from: u64, _to: u64) -> io::Result<()> {
        Ok(())
    }
    fn release(&mut self, _from: u64, _to: u64) {}
}

impl StoredFile for ResidentFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(WalOptions::default().segment_bytes)
    }
    fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        Ok(0)
    }
    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Ok(())
    }
    fn allocate(&self, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
    fn truncate(&self) -> io::Result<()> {
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn expect_random_reads(&self) {}
    fn forget_cache(&self) {}
}

impl Medium for Resident {
    type File = ResidentFile;
    type Region = ResidentRegion;
    fn path_of(&self, name: &str) -> String {
        name.to_owned()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn open(&self, _name: &str, _access: Access) -> io::Result<ResidentFile> {
        Ok(ResidentFile)
    }
    fn create(&self, _name: &str) -> io::Result<ResidentFile> {
        Ok(ResidentFile)
    }
    fn map(&self, _file: &ResidentFile, bytes: u64) -> io::Result<ResidentRegion> {
        Ok(ResidentRegion(vec![0; 2 * RESIDENT_BYTES], bytes))
    }
    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        Ok(())
    }
    fn remove(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }
    fn same_file(&self, _one: &str, _other: &str) -> io::Result<bool> {
        Ok(false)
    }
    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}

struct Subject<M: Medium> {
    wal: Wal<M>,
    data: Vec<u8>,
}

impl<M: Medium> Subject<M> {
    fn new(medium: M, bytes: usize) -> Self {
        Self { wal: Wal::create(medium, IDENTITY, WalOptions::default()).unwrap(), data: vec![7; bytes] }
    }

    /// Syncs, and recycles what is full: not timed.
    fn make_room(&mut self) {
        if let Some(ticket) = self.wal.begin_sync().unwrap() {
            ticket.run().unwrap();
            self.wal.finish_sync(ticket);
        }
        while self.wal.spares_wanted() > 0 {
            let retired = self.wal.retire(self.wal.last_raft_index().next()).pop();
            let medium = self.wal.medium().clone();
            self.wal.add_spare(prepare_spare(&medium, self.wal.options().segment_bytes, retired, &mut || {}).unwrap());
        }
    }

    fn append(&mut self) {
        let index: RaftIndex = self.wal.last_raft_index().next();
        let mut frame = self.wal.begin();
        let (term, kind) = (Term::new(1), EntryKind::Normal);
        frame.push_entry(&EntryRef { term, index, kind, data: black_box(&self.data), context: &[] });
        black_box(frame.finish().unwrap().index);
    }

    fn timed(&mut self, iterations: u64) -> Duration {
        let mut spent = Duration::ZERO;
        let mut left = iterations;
        while left > 0 {
            if self.wal.room_bytes() < 8 << 20 {
                self.make_room();
            }
            let batch = left.min(BATCH);
            let start = Instant::now();
            for _ in 0..batch {
                self.append();
            }
            spent += start.elapsed();
            left -= batch;
        }
        spent
    }
}

fn append(c: &mut Criterion) {
    let root = tempfile::tempdir().unwrap();
    c.bench_function("checksum of a 216 byte frame", |b| {
        let frame = vec![7u8; 216];
        b.iter(|| frame_crc(black_box(5), 4096, black_box(&frame)));
    });
    for bytes in [128usize, 1024, 16 << 10] {
        let mut group = c.benchmark_group("append");
        group.throughput(Throughput::Bytes(bytes as u64));
        let mut resident = Subject::new(Resident, bytes);
        group.bench_function(BenchmarkId::new("resident", bytes), |b| b.iter_custom(|n| resident.timed(n)));
        let directory = root.path().join(bytes.to_string());
        std::fs::create_dir(&directory).unwrap();
        let mut mapped = Subject::new(FsMedium::open(&directory).unwrap(), bytes);
        group.bench_function(BenchmarkId::new("mapped", bytes), |b| b.iter_custom(|n| mapped.timed(n)));
        group.finish();
    }
}

criterion_group!(benches, append);
criterion_main!(benches);
