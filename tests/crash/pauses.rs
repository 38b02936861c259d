//! A process that is stopped and continued at any moment, as a busy machine or a hypervisor does it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::support::{Client, Site};

const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;
/// How long the pauses go on.
const STORM: Duration = Duration::from_secs(4);
/// The longest pause, in microseconds: a few times the executor's preemption timer, so that it often fires while the
/// process does not run.
const PAUSE_MICROS_MAX: u64 = 4000;

/// Says when it goes that the pauses are over, also when a check fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The executor once went to sleep with tasks that were ready when its preemption timer fired at the wrong moment
/// (`src/ring_seam.rs`): a lone client's request then waited for somebody else's, or for ever.
#[test]
fn a_node_that_is_stopped_again_and_again_answers_and_keeps_what_it_acknowledged() {
    let site = Site::new();
    let server = site.start();
    let over = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut step = 0_u64;
            while !over.load(Ordering::Relaxed) {
                // Two strides without a common divisor: pauses and runs of all lengths meet.
                step += 1;
                server.signal(SIGSTOP);
                std::thread::sleep(Duration::from_micros(step * 701 % PAUSE_MICROS_MAX));
                server.signal(SIGCONT);
                std::thread::sleep(Duration::from_micros(step * 397 % PAUSE_MICROS_MAX));
            }
        });
        let _over = Over(&over);
        // The client's own time limit is the test: an answer that never comes fails it.
        let mut client = Client::open(site.client_port).expect("connect");
        let begun = Instant::now();
        let mut written = 0;
        while begun.elapsed() < STORM {
            let form = format!("value={written}");
            let answer = client.request("PUT", &format!("/v2/keys/p/{written}"), &form).expect("a write is answered");
            assert_eq!(answer.status, 201);
            let read = client.request("GET", &format!("/v2/keys/p/{written}"), "").expect("a read is answered");
            assert_eq!(read.status, 200);
            written += 1;
        }
        written
    });
    assert!(written > 0);
    server.kill();
    let server = site.start();
    let mut client = Client::open(site.client_port).expect("connect");
    for number in 0..written {
        let answer = client.request("GET", &format!("/v2/keys/p/{number}"), "").expect("an answer");
        assert_eq!(answer.json()["node"]["value"], number.to_string(), "an acknowledged write is gone");
    }
    server.kill();
}
