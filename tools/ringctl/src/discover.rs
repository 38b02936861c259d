//! `--discovery-srv`: endpoints out of DNS.
//!
//! Owns: which records are asked for and what is made of them; the messages are the `simple-dns` crate's. Touches:
//! `/etc/resolv.conf`, name servers by UDP and, for long answers, TCP. Always: nothing here runs unless the flag is
//! given; an answer is foreign bytes; every wait has a limit.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

use crate::{Exit, output};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// For one question to one server; a resolver of the C library waits 5 s.
const PATIENCE: Duration = Duration::from_secs(2);
/// Datagrams get lost: each server is asked this often.
const TRIES: usize = 2;
/// The largest message there is: its length is 16 bits.
const MESSAGE_BYTES_MAX: usize = 65535;

/// A service that could not be looked up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum LookupError {
    #[error("lookup {name} on {server}: no such host")]
    NoSuchName { name: String, server: SocketAddr },
    #[error("lookup {name}: {why}")]
    Failed { name: String, why: String },
}

/// The endpoints of `domain`: those with TLS first. Without `insecure` the others are left out, each with a line.
pub fn endpoints(domain: &str, insecure: bool) -> Result<Vec<String>, Exit> {
    let servers = name_servers();
    let secure = lookup(&servers, &format!("_etcd-client-ssl._tcp.{domain}"));
    let plain = lookup(&servers, &format!("_etcd-client._tcp.{domain}"));
    if let (Err(secure), Err(plain)) = (&secure, &plain) {
        return Err(output::say(&format!("dns lookup errors: {secure} and {plain}")));
    }
    let url = |scheme: &str, (host, port): &(String, u16)| format!("{scheme}://{host}:{port}");
    let mut found: Vec<String> = secure.iter().flatten().map(|target| url("https", target)).collect();
    for target in plain.iter().flatten() {
        let url = url("http", target);
        if insecure {
            found.push(url);
        } else {
            eprintln!("ignoring discovered insecure endpoint {url:?}");
        }
    }
    Ok(found)
}

fn name_servers() -> Vec<SocketAddr> {
    let text = std::fs::read(RESOLV_CONF).unwrap_or_default();
    let parsed = resolv_conf::Config::parse(&text).unwrap_or_default();
    let listed = parsed.nameservers.iter().map(|server| SocketAddr::new(IpAddr::from(server), DNS_PORT));
    let listed: Vec<SocketAddr> = listed.collect();
    // As the C library does when the file names none.
    if listed.is_empty() { vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT))] } else { listed }
}

/// Targets and ports of the service `name`, best first.
fn lookup(servers: &[SocketAddr], name: &str) -> Result<Vec<(String, u16)>, LookupError> {
    let failed = |why: String| LookupError::Failed { name: name.to_owned(), why };
    let question = Question::new(
        Name::new(name).map_err(|e| failed(e.to_string()))?,
        QTYPE::TYPE(TYPE::SRV),
        QCLASS::CLASS(CLASS::IN),
        false,
    );
    // Whoever can forge answers can do so for any id; the source address of the answer is checked by the socket.
    let id = u16::try_from(std::process::id() & 0xffff).expect("masked");
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(question);
    let message = packet.build_bytes_vec().map_err(|e| failed(e.to_string()))?;
    let mut last = failed("no name server answered".to_owned());
    for server in servers.iter().flat_map(|server| [server; TRIES]) {
        let answer = ask(*server, &message);
        match answer.map_err(|e| e.to_string()).and_then(|bytes| read(&bytes, id)) {
            Ok(Some(targets)) if !targets.is_empty() => return Ok(targets),
            Ok(_) => return Err(LookupError::NoSuchName { name: name.to_owned(), server: *server }),
            Err(why) => last = failed(format!("{server}: {why}")),
        }
    }
    Err(last)
}

fn ask(server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let local =
        if server.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((local, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    socket.send(message)?;
    let mut answer = vec![0; MESSAGE_BYTES_MAX];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    let truncated = simple_dns::header_buffer::has_flags(&answer, PacketFlag::TRUNCATION).unwrap_or(false);
    if truncated { ask_by_tcp(server, message) } else { Ok(answer) }
}

fn ask_by_tcp(server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    stream.write_all(&[&length.to_be_bytes(), message].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// The targets in an answer by priority, then by weight; `None` when the name does not exist.
fn read(bytes: &[u8], id: u16) -> Result<Option<Vec<(String, u16)>>, String> {
    let packet = Packet::parse(bytes).map_err(|e| e.to_string())?;
    if packet.id() != id {
        return Err("an answer to another question".to_owned());
    }
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Ok(None),
        other => return Err(format!("the server answers {other:?}")),
    }
    let mut found: Vec<_> = packet
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::SRV(srv) => Some((srv.priority, u16::MAX - srv.weight, srv.target.to_string(), srv.port)),
            _ => None,
        })
        .collect();
    found.sort();
    let targets = found.into_iter().map(|(_, _, host, port)| (host.trim_end_matches('.').to_owned(), port));
    Ok(Some(targets.collect()))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use simple_dns::ResourceRecord;
    use simple_dns::rdata::SRV;

    use super::*;

    /// A name server that knows one name and answers `questions` times.
    fn server(questions: usize) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("bound");
        thread::spawn(move || {
            for _ in 0..questions {
                let mut buffer = [0; 1500];
                let (length, from) = socket.recv_from(&mut buffer).expect("a question");
                let question = Packet::parse(&buffer[..length]).expect("a message");
                let mut answer = Packet::new_reply(question.id());
                let name = question.questions[0].qname.clone();
                if name.to_string() == "_etcd-client._tcp.example.org" {
                    for (priority, weight, port, host) in [(10, 1, 1, "b.x"), (5, 1, 2, "c.x"), (5, 9, 3, "a.x")] {
                        let target = Name::new_unchecked(host);
                        let srv = RData::SRV(SRV { priority, weight, port, target });
                        answer.answers.push(ResourceRecord::new(name.clone(), CLASS::IN, 60, srv));
                    }
                } else {
                    *answer.rcode_mut() = RCODE::NameError;
                }
                let bytes = answer.build_bytes_vec().expect("plain data");
                socket.send_to(&bytes, from).expect("loopback");
            }
        });
        address
    }

    #[test]
    fn targets_come_by_priority_and_weight() {
        let servers = [server(2)];
        let found = lookup(&servers, "_etcd-client._tcp.example.org").expect("the name exists");
        assert_eq!(found, [("a.x".to_owned(), 3), ("c.x".to_owned(), 2), ("b.x".to_owned(), 1)]);
        let missing = lookup(&servers, "_etcd-client._tcp.example.com");
        assert_eq!(
            missing,
            Err(LookupError::NoSuchName { name: "_etcd-client._tcp.example.com".to_owned(), server: servers[0] })
        );
    }

    #[test]
    fn foreign_bytes_are_an_error() {
        assert!(read(b"", 1).is_err());
        assert!(read(&[0xff; 40], 0xffff).is_err());
        assert!(read(&Packet::new_reply(2).build_bytes_vec().expect("plain data"), 1).is_err());
    }
}
