//! Members over TLS: who joins, what a snapshot passes, and certificates of their own making.
//!
//! Must hold: as `main.rs`.

use crate::authority::Files;
use crate::support::{Client, Server, Site, snapshots_beyond};
use crate::{cluster_of, logs, mutual_flags, put, wait_for};

/// Entries that a leader keeps for those who are slow.
const KEPT: u64 = 5_000;
/// Requests on their way at once.
const BATCH: usize = 200;
/// A snapshot may take as long as many batches on a busy machine, but not as long as all these.
const BATCHES_MAX: usize = 1_000;

fn secure_peer(site: &Site) -> String {
    format!("https://127.0.0.1:{}", site.peer_port)
}

/// A member with `https` peer URLs, not started.
fn site(files: &Files, name: &str) -> Site {
    let mut site = Site::new();
    let url = secure_peer(&site);
    site.extra = mutual_flags(files, "peer-", "good");
    site.extra.extend([format!("--name={name}"), format!("--listen-peer-urls={url}")]);
    site.extra.extend([format!("--initial-advertise-peer-urls={url}"), "--snapshot-count=300".to_owned()]);
    site
}

fn value(site: &Site) -> Option<String> {
    let mut client = Client::open(site.client_port).ok()?;
    let answer = client.request("GET", "/v2/keys/last?quorum=true", "").ok()?;
    (answer.status == 200).then(|| answer.json()["node"]["value"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn members_join_over_tls_and_get_a_snapshot() {
    let files = Files::new();
    let mut first = site(&files, "m0");
    first.extra.push(format!("--initial-cluster=m0={}", secure_peer(&first)));
    let mut servers: Vec<Server> = vec![first.start()];
    let mut client = Client::open(first.client_port).expect("the member");
    let mut batch = 0;
    while snapshots_beyond(&servers[0].stderr(), KEPT) < 2 {
        let one = |n: usize| {
            let body = format!("value={}-{n}", "x".repeat(100));
            format!(
                "PUT /v2/keys/k{n} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let requests: String = (0..BATCH).map(|n| one(batch * BATCH + n)).collect();
        client.send(requests.as_bytes()).expect("sent");
        for _ in 0..BATCH {
            assert_eq!(client.receive(false).expect("an answer").status, 201);
        }
        batch += 1;
        assert!(batch < BATCHES_MAX, "no two snapshots beyond {KEPT}: {}", servers[0].stderr());
    }
    let mut cluster = format!("m0={}", secure_peer(&first));
    for name in ["m1", "m2"] {
        let mut next = site(&files, name);
        let url = secure_peer(&next);
        let added = format!(r#"{{"peerURLs":["{url}"]}}"#);
        let request = format!(
            "POST /v2/members HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{added}",
            added.len()
        );
        wait_for(
            || format!("{name} to be added: {}", servers[0].stderr()),
            || {
                let mut client = Client::open(first.client_port).ok()?;
                client.send(request.as_bytes()).ok()?;
                // Also when an earlier question was carried out without its answer.
                matches!(client.receive(false).ok()?.status, 201 | 409).then_some(())
            },
        );
        cluster.push_str(&format!(",{name}={url}"));
        next.extra.extend([format!("--initial-cluster={cluster}"), "--initial-cluster-state=existing".to_owned()]);
        let server = next.spawn();
        wait_for(|| server.stderr(), || server.stderr().contains("read the snapshot from the leader").then_some(()));
        let set = Client::open(first.client_port).expect("the member").request("PUT", "/v2/keys/last", "value=1");
        assert!(set.expect("an answer").status < 300);
        wait_for(|| server.stderr(), || value(&next).filter(|value| value == "1"));
        servers.push(server);
    }
}

#[test]
fn members_with_certificates_of_their_own_making_make_a_cluster() {
    let members = cluster_of(|_| vec!["--peer-auto-tls".to_owned()]);
    for (site, _) in &members {
        wait_for(|| logs(&members), || put(site));
        assert!(site.data_dir.join("fixtures/peer/cert.pem").exists());
    }
}
