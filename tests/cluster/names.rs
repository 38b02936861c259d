//! Members whose peer URLs hold host names that nobody knows yet, and that come to mean another address.
//!
//! All members see a `hosts` file of the test's in place of `/etc/hosts`, each by a mount of its own.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use crate::cluster::{Cluster, wait_for};
use crate::load::Load;
use crate::support;

/// Writes that show that the cluster works.
const SOME: u64 = 100;

/// What members know of each other's names: `None` is not known.
fn tell(cluster: &Cluster, known: [Option<IpAddr>; 3]) {
    let mut text = "127.0.0.1 localhost\n".to_owned();
    for (member, address) in known.into_iter().enumerate() {
        if let Some(address) = address {
            writeln!(text, "{address} m{member}.ring.test").expect("text grows");
        }
    }
    // Written in place: the mounts show this very file.
    std::fs::write(cluster.scratch.path().join("hosts"), text).expect("the hosts file");
}

#[test]
fn peer_names_may_appear_late_and_move() {
    let mut cluster = Cluster::new(3, &[]);
    if !cluster.net.can_cut() {
        support::skip("peer_names_may_appear_late_and_move", "it needs namespaces");
        return;
    }
    let address = |cluster: &Cluster, member| Some(cluster.net.address(member));
    tell(&cluster, [None; 3]);
    let hosts = cluster.scratch.path().join("hosts");
    for (member, node) in cluster.nodes.iter_mut().enumerate() {
        node.prelude = format!("mount --bind '{}' /etc/hosts", hosts.display());
        let place = node.peer_url.strip_prefix("http://").expect("a URL").to_owned();
        let port = place.rsplit_once(':').expect("a port").1;
        node.peer_url = format!("http://m{member}.ring.test:{port}");
        node.listen_peer = Some(format!("http://{place}"));
    }
    let initial = cluster.initial(&[0, 1, 2]);
    (0..3).for_each(|member| cluster.spawn(member, &initial, &[]));
    for member in 0..3 {
        wait_for("it to say what it misses", || cluster.log(member).contains("cannot reach peer").then_some(()));
        let health = wait_for("an answer", || cluster.request(member, "GET", "/health", ""));
        assert_eq!(health.status, 503, "nobody has found anybody");
    }
    // Two are found, and are a cluster.
    tell(&cluster, [address(&cluster, 0), address(&cluster, 1), None]);
    (0..2).for_each(|member| cluster.wait_until_served(member));
    let load = Load::start(vec![cluster.nodes[0].client, cluster.nodes[1].client]);
    load.wait_for_writes(SOME);
    // The third finds the others, who do not find it: what it cannot be sent it does not have.
    assert_ne!(cluster.request(2, "GET", "/health", "").expect("an answer").status, 200);
    tell(&cluster, [address(&cluster, 0), address(&cluster, 1), address(&cluster, 2)]);
    cluster.wait_until_served(2);
    load.wait_for_writes(SOME);

    // It comes back at another address, with the name it had.
    cluster.kill(2);
    let moved = cluster.net.move_to(2);
    let listen = cluster.nodes[2].listen_peer.take().expect("set above");
    cluster.nodes[2].listen_peer = Some(listen.replace(&cluster.net.address(2).to_string(), &moved.to_string()));
    cluster.restart(2);
    wait_for("it to answer", || cluster.request(2, "GET", "/health", ""));
    std::thread::sleep(Duration::from_secs(1));
    assert_ne!(
        cluster.request(2, "GET", "/health", "").expect("an answer").status,
        200,
        "the others still look for it where it was"
    );
    tell(&cluster, [address(&cluster, 0), address(&cluster, 1), Some(moved)]);
    cluster.wait_until_served(2);
    // A majority that needs it: it is reached, not only heard.
    let leader = cluster.leader();
    if let Some(other) = (0..2).find(|&member| member != leader) {
        cluster.kill(other);
        load.wait_for_writes(SOME);
        cluster.restart(other);
        cluster.wait_until_served(other);
    }
    load.finish_and_check(&cluster);
}
