//! A name server for a few SRV records, on UDP.
//!
//! Must hold: it ends when it is dropped; what it does not know does not exist (NXDOMAIN).

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const SRV: u16 = 33;
const TYPE_A: u16 = 1;

/// SRV records of one name, all of target `localhost`.
pub struct Dns {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn name(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in text.trim_end_matches('.').split('.') {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

/// The question's name, its type, and where it ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).into_owned());
        at += length + 1;
    }
    let kind = u16::from_be_bytes(query.get(at + 1..at + 3)?.try_into().ok()?);
    Some((labels.join(".").to_ascii_lowercase(), kind, at + 5))
}

fn reply(query: &[u8], service: &str, target: &str, ports: &[u16]) -> Option<Vec<u8>> {
    let (asked, kind, end) = question(query)?;
    let mut answers: Vec<Vec<u8>> = Vec::new();
    let known = asked == service || asked == target;
    if asked == service && kind == SRV {
        for (place, port) in ports.iter().enumerate() {
            let mut data = Vec::new();
            for number in [place as u16, 0, *port] {
                data.extend_from_slice(&number.to_be_bytes());
            }
            data.extend_from_slice(&name(target));
            answers.push(record(SRV, &data));
        }
    } else if asked == target && kind == TYPE_A {
        answers.push(record(TYPE_A, &[127, 0, 0, 1]));
    }
    let mut out = query[..2].to_vec();
    out.extend_from_slice(&[0x85, if known { 0x80 } else { 0x83 }, 0, 1]);
    out.extend_from_slice(&(answers.len() as u16).to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 0]);
    out.extend_from_slice(&query[12..end]);
    out.extend(answers.concat());
    Some(out)
}

/// A record of the question's name.
fn record(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0xc0, 12];
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(data);
    out
}

impl Dns {
    /// Serves `service` with one record per port.
    pub fn start(service: &str, target: &str, ports: &[u16]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let address = socket.local_addr().expect("an address");
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, service, target, ports) =
            (Arc::clone(&stop), service.to_owned(), target.to_owned(), ports.to_vec());
        let thread = std::thread::spawn(move || {
            let mut query = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut query)
                    && let Some(reply) = reply(&query[..length], &service, &target, &ports)
                {
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
