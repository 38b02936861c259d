//! A member that misbehaves: it tells who is in the cluster, and does with every other request what it is told.
//!
//! Must hold: its threads end with the test's process; it remembers what it was sent.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a request is answered with.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// Nothing; the connection ends.
    HangUp,
    /// Nothing, for ever.
    Silence,
    /// Nothing, and of the request only the head is read.
    Deaf,
    /// These bytes; then the connection ends.
    Say(&'static [u8]),
}

pub struct Fake {
    pub port: u16,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// A cluster of this one, or with others whose URLs are given.
    pub fn start(manner: Manner, others: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        if matches!(manner, Manner::Deaf) {
            // Accepted connections inherit it: what is not read soon fills it.
            rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 4096).expect("a smaller buffer");
        }
        let port = listener.local_addr().expect("an address").port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut urls = vec![format!("http://127.0.0.1:{port}")];
        urls.extend_from_slice(others);
        let list: Vec<String> = urls
            .iter()
            .enumerate()
            .map(|(id, url)| {
                format!(
                    r#"{{"id":{},"peerURLs":["http://127.0.0.1:{port}"],"name":"x","clientURLs":["{url}"]}}"#,
                    id + 1
                )
            })
            .collect();
        let members = format!("[{}]", list.join(","));
        let kept = Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (members, heard) = (members.clone(), Arc::clone(&kept));
                std::thread::spawn(move || serve(stream, manner, &members, &heard));
            }
        });
        Self { port, heard }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Requests other than for the members, as they came.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("no thread panics with it").clone()
    }
}

fn serve(mut stream: TcpStream, manner: Manner, members: &str, heard: &Mutex<Vec<String>>) {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut chunk) {
            Ok(read @ 1..) => request.extend_from_slice(&chunk[..read]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    if text.starts_with("GET /members ") {
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nX-Etcd-Cluster-Id: 7\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{members}",
            members.len()
        );
        return;
    }
    heard.lock().expect("no thread panics with it").push(text);
    match manner {
        Manner::HangUp => {}
        Manner::Silence | Manner::Deaf => std::thread::sleep(Duration::from_secs(3600)),
        Manner::Say(bytes) => {
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut chunk);
        }
    }
}
