//! Proxies and discovery over TLS.
//!
//! Must hold: as `main.rs`.

use ringd_client::{GetOptions, SetOptions};

use crate::authority::{Files, Wanted};
use crate::raw::{connect, connect_proxy, settings};
use crate::support::{self, Server, Site, free_port};
use crate::{Member, certificate_flags, client, member, mutual_flags, tls, wait_for};

/// A member whose clients and members must show certificates, and that tells clients of its `https` URL only.
fn backing(files: &Files) -> (Site, Server, String) {
    let mut site = Site::new();
    let (client, peer) =
        (format!("https://127.0.0.1:{}", free_port()), format!("https://127.0.0.1:{}", site.peer_port));
    site.extra = mutual_flags(files, "", "good");
    site.extra.extend(mutual_flags(files, "peer-", "good"));
    site.extra.push(format!("--listen-client-urls=http://127.0.0.1:{},{client}", site.client_port));
    site.extra.push(format!("--advertise-client-urls={client}"));
    site.extra.push(format!("--listen-peer-urls={peer}"));
    site.extra.push(format!("--initial-advertise-peer-urls={peer}"));
    site.extra.push(format!("--initial-cluster=default={peer}"));
    let server = site.start();
    (site, server, peer)
}

fn wait_for_line(server: &Server, line: &str) {
    wait_for(|| format!("{line} in {}", server.stderr()), || server.stderr().contains(line).then_some(()));
}

/// A proxy with a secure and a plain listener.
fn proxy(peer: &str, flags: Vec<String>) -> Member {
    let mut site = Site::new();
    let (secure, plain) = (free_port(), site.client_port);
    site.extra = vec!["--proxy=on".to_owned(), format!("--initial-cluster=default={peer}")];
    site.extra.push(format!("--listen-client-urls=http://127.0.0.1:{plain},https://127.0.0.1:{secure}"));
    site.extra.extend(flags);
    let server = site.spawn();
    wait_for_line(&server, "v2 proxy started listening");
    Member { server, secure, plain, site }
}

#[test]
fn a_proxy_speaks_tls_with_clients_and_members() {
    let files = Files::new();
    let (site, _server, peer) = backing(&files);
    let flags = [mutual_flags(&files, "", "good"), mutual_flags(&files, "peer-", "good")].concat();
    let proxy = proxy(&peer, flags);
    let mut secure = client(proxy.secure, tls(&files, Some("good"), "ca.crt"));
    let large = "x".repeat(300_000);
    // On a busy machine the members may have been too slow for the proxy's first question.
    wait_for(|| proxy.server.stderr(), || secure.set("/a", &large, &SetOptions::default()).ok());
    let got = secure.get("/a", GetOptions::default()).expect("through the proxy");
    assert_eq!(got.node.map(|node| node.value), Some(large));
    let mut plain = support::Client::open(proxy.plain).expect("the plain listener");
    assert_eq!(plain.request("PUT", "/v2/keys/b", "value=1").expect("an answer").status, 201);

    // A stream of events passes one by one.
    let config = settings(&tls(&files, Some("good"), "ca.crt"));
    let mut watching = connect(proxy.secure, &config);
    watching.send("GET /v2/keys/s?wait=true&stream=true HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    watching.until("\r\n\r\n").expect("the head");
    let mut direct = support::Client::open(site.client_port).expect("the member");
    for value in ["one", "two", "three"] {
        assert!(direct.request("PUT", "/v2/keys/s", &format!("value={value}")).expect("an answer").status < 300);
        assert!(watching.until("}\n").expect("an event").contains(value));
    }

    assert!(client(proxy.secure, tls(&files, None, "ca.crt")).get("/a", GetOptions::default()).is_err());
    wait_for_line(&proxy.server, "(error \"tls: client didn't provide a certificate\", ServerName \"\")");
}

#[test]
fn a_proxy_shows_members_the_peer_certificate_when_it_has_no_other() {
    let files = Files::new();
    let (_site, _server, peer) = backing(&files);
    let mut site = Site::new();
    site.extra = vec!["--proxy=on".to_owned(), format!("--initial-cluster=default={peer}")];
    site.extra.extend(mutual_flags(&files, "peer-", "good"));
    let proxy = site.start();
    let mut plain = support::Client::open(site.client_port).expect("the proxy");
    assert_eq!(plain.request("PUT", "/v2/keys/b", "value=1").expect("an answer").status, 201);
    drop(proxy);
    // One that shows a certificate that the members refuse passes nothing on.
    let mut site = Site::new();
    site.extra = vec!["--proxy=on".to_owned(), format!("--initial-cluster=default={peer}")];
    site.extra.extend(mutual_flags(&files, "peer-", "foreign"));
    let proxy = site.spawn();
    wait_for_line(&proxy, "could not get cluster response from https://");
    wait_for_line(&proxy, "remote error: tls: bad certificate");
}

#[test]
fn a_cluster_is_found_by_a_discovery_service_under_https() {
    let files = Files::new();
    files.ours.issue(&files.path("service"), &Wanted::default());
    let service = member(&certificate_flags(&files, "", "service"));
    let mut plain = support::Client::open(service.plain).expect("the service");
    let via = connect_proxy();
    for (token, flags) in
        [("straight", Vec::new()), ("tunnel", vec![format!("--discovery-proxy=http://127.0.0.1:{via}")])]
    {
        let path = format!("/v2/keys/_etcd/registry/{token}");
        let made = plain.request("PUT", &format!("{path}/_config/size"), "value=1").expect("an answer");
        assert_eq!(made.status, 201);
        let url = format!("https://127.0.0.1:{}{path}", service.secure);
        let mut site = Site::new();
        site.extra = [vec![format!("--discovery={url}")], flags].concat();
        let mut command = site.command();
        // `--initial-cluster` and `--discovery` exclude each other.
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let at = args.iter().position(|arg| arg == "--initial-cluster").expect("of every site");
        let args = args.iter().enumerate().filter(|(n, _)| *n != at && *n != at + 1).map(|(_, arg)| arg.clone());
        let args: Vec<_> = args.collect();
        command = std::process::Command::new(env!("CARGO_BIN_EXE_ringd"));
        // The system's authorities, as far as this process is concerned.
        command.args(args).env("SSL_CERT_FILE", files.path("ca.crt"));
        let server = Server::spawn(command);
        wait_for(
            || server.stderr(),
            || {
                let mut client = support::Client::open(site.client_port).ok()?;
                (client.request("PUT", "/v2/keys/a", "value=1").ok()?.status < 300).then_some(())
            },
        );
        assert!(server.stderr().contains("discovery: found self "), "{}", server.stderr());
    }
}
