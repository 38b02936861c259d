//! Clients that write and read while things break, and what must hold of what they saw.
//!
//! Each client repeats: a new key of its own (must exist at the end if it was acknowledged), a write to one of a few
//! shared registers, a linearizable read of one. A request without an answer is an operation that may happen later.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, wait_for};
use crate::linear::{self, Op};
use crate::support::Client;

/// Clients at work.
const CLIENTS: usize = 6;
/// Registers they share: few, so that they meet.
const REGISTERS: usize = 3;
/// A request's limit: etcd's own is 7 s.
const LIMIT: Duration = Duration::from_secs(10);
/// After a failure, so that a client without a server does not spin.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Seen {
    registers: [Vec<Op>; REGISTERS],
    /// Acknowledged keys.
    kept: Vec<String>,
}

/// Running clients.
pub struct Load {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
    begun: Instant,
}

impl Load {
    /// Clients that begin at different members and move on when one does not answer.
    pub fn start(servers: Vec<SocketAddr>) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (seen, begun) = (Arc::new(Mutex::new(Seen::default())), Instant::now());
        let threads = (0..CLIENTS).map(|client| {
            let (stop, acknowledged, seen) = (Arc::clone(&stop), Arc::clone(&acknowledged), Arc::clone(&seen));
            let servers = servers.clone();
            std::thread::spawn(move || work(client, &servers, begun, (&stop, &acknowledged), &seen))
        });
        let threads = threads.collect();
        Self { threads, stop, acknowledged, seen, begun }
    }

    /// Waits until so many more writes were acknowledged.
    pub fn wait_for_writes(&self, more: u64) {
        let target = self.acknowledged.load(Ordering::Relaxed) + more;
        wait_for("writes to be acknowledged", || (self.acknowledged.load(Ordering::Relaxed) >= target).then_some(()));
    }

    /// Ends the clients, lets the cluster settle, and checks everything they saw.
    pub fn finish_and_check(self, cluster: &Cluster) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client");
        }
        cluster.wait_until_equal();
        let mut seen = std::mem::take(&mut *self.seen.lock().expect("clients have ended"));
        let member = cluster.leader();
        for (number, history) in seen.registers.iter_mut().enumerate() {
            let begin = now(self.begun);
            let answer = cluster.request(member, "GET", &format!("/v2/keys/register/{number}?quorum=true"), "");
            let answer = answer.expect("the settled cluster answers");
            let value = (answer.status == 200)
                .then(|| answer.json()["node"]["value"].as_str().and_then(|text| text.parse().ok()).expect("a number"));
            history.push(Op { value, is_write: false, begin, end: now(self.begun) });
            if let Err(why) = linear::check(history) {
                panic!("register {number} is not linearizable: {why}\n{history:?}");
            }
        }
        let tree = cluster.request(member, "GET", "/v2/keys/kept?recursive=true", "").expect("an answer");
        let there: std::collections::BTreeSet<String> = tree.json()["node"]["nodes"]
            .as_array()
            .map(|nodes| nodes.iter().filter_map(|node| node["key"].as_str()).map(str::to_owned).collect())
            .unwrap_or_default();
        let lost: Vec<&String> = seen.kept.iter().filter(|key| !there.contains(*key)).collect();
        assert!(lost.is_empty(), "{} of {} acknowledged writes are lost: {lost:?}", lost.len(), seen.kept.len());
        assert!(!seen.kept.is_empty(), "nothing was acknowledged");
    }
}

fn now(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).expect("a short test")
}

fn work(
    client: usize,
    servers: &[SocketAddr],
    begun: Instant,
    (stop, acknowledged): (&AtomicBool, &AtomicU64),
    seen: &Mutex<Seen>,
) {
    let (mut server, mut connection) = (client, None);
    let mut step = 0u64;
    while !stop.load(Ordering::Relaxed) {
        step += 1;
        let unique = step * CLIENTS as u64 + client as u64;
        let register = (unique / 7 % REGISTERS as u64) as usize;
        let (method, path, form) = match step % 3 {
            0 => ("PUT", format!("/v2/keys/kept/{client}-{step}"), format!("value={step}")),
            1 => ("PUT", format!("/v2/keys/register/{register}"), format!("value={unique}")),
            _ => ("GET", format!("/v2/keys/register/{register}?quorum=true"), String::new()),
        };
        let begin = now(begun);
        let answer = exchange(&mut connection, servers[server % servers.len()], method, &path, &form);
        let end = now(begun);
        let ok = answer.as_ref().is_some_and(|(status, _)| matches!(status, 200 | 201));
        let mut seen = seen.lock().expect("no client panics while it holds this");
        match step % 3 {
            0 if ok => seen.kept.push(format!("/kept/{client}-{step}")),
            1 => {
                let end = if ok { end } else { u64::MAX };
                seen.registers[register].push(Op { value: Some(unique), is_write: true, begin, end });
            }
            2 => match &answer {
                Some((200, body)) => {
                    let json: serde_json::Value = serde_json::from_slice(body).expect("JSON");
                    let value = json["node"]["value"].as_str().and_then(|text| text.parse().ok()).expect("a number");
                    seen.registers[register].push(Op { value: Some(value), is_write: false, begin, end });
                }
                Some((404, _)) => seen.registers[register].push(Op { value: None, is_write: false, begin, end }),
                _ => {}
            },
            _ => {}
        }
        drop(seen);
        if ok && step % 3 < 2 {
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        if answer.is_none_or(|(status, _)| status >= 500) {
            connection = None;
            server += 1;
            std::thread::sleep(PAUSE);
        }
    }
}

fn exchange(
    connection: &mut Option<Client>,
    server: SocketAddr,
    method: &str,
    path: &str,
    form: &str,
) -> Option<(u16, Vec<u8>)> {
    if connection.is_none() {
        *connection = Some(Client::connect(server, LIMIT).ok()?);
    }
    let answer = connection.as_mut()?.request(method, path, form).ok()?;
    Some((answer.status, answer.body))
}
