#!/bin/sh
# Starts three ringd members on this machine, as etcd's Procfile does, and stops them with Ctrl-C.
#
#   tools/local-cluster.sh [FLAGS FOR EVERY MEMBER]
#
# Clients: 127.0.0.1:2379, 22379, 32379; peers: 2380, 22380, 32380. Data is kept in ./local-cluster (RINGD_LOCAL_DIR).
# RINGD names the program; without it, target/release/ringd is built and used. Each log line begins with its member.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
data=${RINGD_LOCAL_DIR:-local-cluster}
program=${RINGD:-}
if [ -z "$program" ]; then
    (cd "$root" && cargo build --release --bin ringd)
    program=$root/target/release/ringd
fi

members='infra1:2379:2380 infra2:22379:22380 infra3:32379:32380'
cluster=infra1=http://127.0.0.1:2380,infra2=http://127.0.0.1:22380,infra3=http://127.0.0.1:32380
mkdir -p "$data"

pids=
stop() {
    trap - INT TERM EXIT
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    wait
}
trap stop INT TERM EXIT

for member in $members; do
    IFS=: read -r name client peer <<END
$member
END
    log=$data/$name.log
    : >"$log"
    "$program" --name "$name" --data-dir "$data/$name" \
        --listen-client-urls "http://127.0.0.1:$client" --advertise-client-urls "http://127.0.0.1:$client" \
        --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
        --initial-cluster "$cluster" --initial-cluster-token local-cluster --initial-cluster-state new \
        "$@" >>"$log" 2>&1 &
    pids="$pids $!"
    tail -n +1 -f "$log" | sed "s/^/$name | /" &
    pids="$pids $!"
done
wait
