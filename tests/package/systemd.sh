#!/usr/bin/env bash
# The README's "Run it as a service" under a real systemd: a Debian of its own is made by debootstrap, put on an ext4 image
# and booted by user-mode Linux, which needs no virtual machine and no privileges over this one. In it the README's lines
# are run as they stand, and then what an operator and systemd do to a service: restart, kill -9, a loop that hangs, a
# stop, limits, a start that waits, settings of "Secure it", upgrade, removal, purge.
# CI does not run it: it takes some minutes. Needs root (debootstrap), debootstrap, linux.uml (Debian: user-mode-linux),
# mkfs.ext4 and a Debian mirror; says that it skips without.
# Usage: systemd.sh DIRECTORY_WITH_THE_DEB [DIRECTORY_OF_A_DEBIAN_MADE_EARLIER]
set -euo pipefail

# The longest that anything may take which must happen at all; the watchdog's 30 s and RestartSec's 10 s are part of it.
patience=120
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
packages_inside=systemd,systemd-sysv,dbus,debconf,kmod,iproute2,procps,curl,openssl,sudo,ca-certificates

skip() {
    echo "skipped the test under systemd: $*"
    exit 0
}

fail() {
    echo "systemd test: $*" >&2
    exit 1
}

# ---- outside: makes the machine and watches it

if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" -eq 0 ] || skip "it needs root"
    for program in linux.uml debootstrap mkfs.ext4; do
        PATH=$PATH:/usr/sbin:/sbin command -v $program >/dev/null || skip "there is no $program"
    done
    PATH=$PATH:/usr/sbin:/sbin
    packages=$(cd "$1" && pwd)
    ls "$packages"/ringd_*.deb >/dev/null
    here=$(cd "$(dirname "$0")" && pwd)
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    root=$scratch/root
    if [ -n "${2:-}" ]; then
        cp -a "$2" "$root"
    else
        debootstrap --variant=minbase --include=$packages_inside bookworm "$root" "$mirror" >"$scratch/debootstrap.log" 2>&1 ||
            { tail -n 20 "$scratch/debootstrap.log"; skip "debootstrap failed"; }
    fi
    mkdir -p "$root/srv/ringd/target/packages"
    cp "$packages"/ringd_*.deb "$root/srv/ringd/target/packages/"
    cp "$here/systemd.sh" "$here/../../README.md" "$root/srv/ringd/"
    # The README calls it to look at the settings, which are right as they are.
    printf '#!/bin/sh\ntest -w "$1"\n' >"$root/usr/bin/editor"
    chmod 755 "$root/usr/bin/editor"
    cat >"$root/etc/systemd/system/ringd-test.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /srv/ringd/systemd.sh --inside
ExecStopPost=/bin/systemctl --no-block poweroff
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
Environment=HOME=/root
UNIT
    mkdir -p "$root/etc/systemd/system/default.target.wants"
    ln -sf ../ringd-test.service "$root/etc/systemd/system/default.target.wants/ringd-test.service"
    ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
    mkfs.ext4 -q -d "$root" "$scratch/image" 3G
    rm -rf "$root"
    TMPDIR=$scratch timeout --foreground 900 linux.uml ubd0="$scratch/image" root=/dev/ubda rw mem=2G init=/sbin/init quiet \
        systemd.show_status=false con=null con0=null,fd:1 </dev/null 2>&1 | tr -d '\r' | tee "$scratch/console" || true
    grep -q '^all of it holds under systemd' "$scratch/console" || fail "it did not come to its end"
    exit 0
fi

# ---- inside: lives with the service

trap 'code=$?; [ $code -eq 0 ] || { echo "systemd test failed ($code) at line $LINENO"; journalctl -u ringd --no-pager | tail -n 40; }' EXIT
cd /srv/ringd

ok() {
    echo "ok: $*"
}

# Waits until a command succeeds.
eventually() {
    local begun=$SECONDS
    until "$@" >/dev/null 2>&1; do
        [ $((SECONDS - begun)) -lt $patience ] || fail "never happened: $*"
        sleep 0.2
    done
}

show() {
    systemctl show ringd --value -p "$1"
}

is() {
    local found
    found=$(show "$1")
    [ "$found" = "$2" ] || fail "$1 is '$found', not '$2'"
}

becomes() {
    eventually test_show "$1" "$2"
}

test_show() {
    [ "$(show "$1")" = "$2" ]
}

kept() {
    local found
    found=$(ringctl get /message)
    [ "$found" = hello ] || fail "/message is '$found'"
}

log_says() {
    eventually log_has "$1"
}

log_has() {
    journalctl --sync
    journalctl -u ringd --no-pager -o cat | grep -qF -- "$1"
}

setting() {
    sed -i "/^$1=/d" /etc/ringd/ringd.conf
    echo "$1=$2" >>/etc/ringd/ringd.conf
}

systemctl --version | head -n 1
uname -sr

# The README's lines; the first two were run before.
lines=$(sed -n '/^## Run it as a service/,/^## /p' README.md | sed -n '/^```sh$/,/^```$/p' | sed '/^```/d')
[ "$(head -n 1 <<<"$lines")" = "cargo build --release --workspace --bins" ] || fail "the README begins otherwise: $lines"
grep -q '^tools/packaging/build.sh' <<<"$lines" || fail "the README builds no package"
while read -r line; do
    echo "\$ $line"
    sh -ec "$line" || fail "the README's line ended with $?: $line"
    case $line in
    *"dpkg -i"*)
        ! systemctl -q is-enabled ringd || fail "enabled before anybody said so"
        ! systemctl -q is-active ringd || fail "started before anybody said so"
        ;;
    *"enable --now"*)
        # It returned, hence clients are served.
        curl -fsS -o /dev/null http://127.0.0.1:2379/readyz || fail "not ready although systemctl says so"
        is ActiveState active
        is SubState running
        ;;
    esac
done < <(sed 1,2d <<<"$lines")
kept
ok "the README's lines"

is Type notify
is StatusText "serving clients"
is LimitMEMLOCK 8388608
is LimitNOFILE 65536
is WatchdogUSec 30s
is UnitFileState enabled
pid=$(show MainPID)
[ "$(stat -c %U /proc/"$pid")" = ringd ] || fail "it does not run as its user"
grep -q '^Max locked memory *8388608 *8388608' /proc/"$pid"/limits || fail "$(cat /proc/"$pid"/limits)"
grep -q '^Max open files *65536 *65536' /proc/"$pid"/limits || fail "$(cat /proc/"$pid"/limits)"
grep -q '^Seccomp:\s*2' /proc/"$pid"/status || fail "system calls are not filtered"
grep -q '^CapEff:\s*0*$' /proc/"$pid"/status || fail "it has capabilities"
log_says "ready to serve client requests"
ok "type, limits, user, filter, journal"

systemctl restart ringd
kept
[ "$(show MainPID)" != "$pid" ] || fail "restarted, and the same process"
ok "a restart keeps data"

kill -9 "$(show MainPID)"
becomes NRestarts 1
becomes ActiveState active
kept
ok "killed, it comes back by itself"

kill -STOP "$(show MainPID)"
log_says "Watchdog timeout"
becomes NRestarts 2
becomes ActiveState active
kept
ok "hanging, it is killed by the watchdog and comes back"

systemctl stop ringd
is ActiveState inactive
# As etcd does, it ends by the signal that it got, which systemd takes for success.
is Result success
is ExecMainStatus 15
log_says "stopped"
systemctl start ringd
# One that ends by itself, so that systemd hears of it from the process.
kill -TERM "$(show MainPID)"
becomes ActiveState inactive
is Result success
is StatusText stopping
systemctl start ringd
kept
ok "a stop says STOPPING and is a success"

cp /etc/ringd/ringd.conf /srv/ringd.conf.kept
systemctl stop ringd
setting ETCD_DATA_DIR /var/lib/ringd/waiting.etcd
setting ETCD_INITIAL_CLUSTER default=http://127.0.0.1:2380,other=http://127.0.0.1:12380
systemctl --no-block start ringd
becomes StatusText "waiting for the cluster"
sleep 3
is ActiveState activating
curl -sS -o /dev/null http://127.0.0.1:2379/version || fail "one that waits answers /version"
systemctl stop ringd
cp /srv/ringd.conf.kept /etc/ringd/ringd.conf
ok "one that waits for its cluster is not ready"

mkdir -p /etc/systemd/system/ringd.service.d
printf '[Service]\nExecStartPre=/usr/bin/ringd --check-config\n' >/etc/systemd/system/ringd.service.d/check.conf
systemctl daemon-reload
setting ETCD_HEARTBEAT_INTERVAL abc
! systemctl start ringd 2>/dev/null || fail "started with a bad setting"
is Result exit-code
systemctl stop ringd
cp /srv/ringd.conf.kept /etc/ringd/ringd.conf
systemctl start ringd
kept
rm -r /etc/systemd/system/ringd.service.d
systemctl daemon-reload
ok "--check-config as ExecStartPre"

# "Secure it", its first block, for the service.
mkdir /etc/ringd/tls
secure=$(sed -n '/^## Secure it/,/^## /p' README.md | sed -n '/^```sh$/,/^```$/{/^```$/q;/^```/d;p}')
(cd /etc/ringd/tls && sh -ec "$secure" 2>/dev/null)
chown -R ringd: /etc/ringd/tls
setting ETCD_LISTEN_CLIENT_URLS https://127.0.0.1:2379
setting ETCD_ADVERTISE_CLIENT_URLS https://127.0.0.1:2379
setting ETCD_CERT_FILE /etc/ringd/tls/server.crt
setting ETCD_KEY_FILE /etc/ringd/tls/server.key
setting ETCD_CLIENT_CERT_AUTH true
setting ETCD_TRUSTED_CA_FILE /etc/ringd/tls/ca.crt
setting ETCD_CLIENT_CRL_FILE /etc/ringd/tls/crl.pem
setting ETCD_ENABLE_PPROF true
setting ETCD_LOG_OUTPUTS systemd/journal
systemctl restart ringd
(
    cd /etc/ringd/tls
    export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379
    export ETCDCTL_CERT_FILE=client.crt ETCDCTL_KEY_FILE=client.key ETCDCTL_CA_FILE=ca.crt
    kept
    ringctl cluster-health | cat
    curl -fsS --cacert ca.crt --cert client.crt --key client.key -o /srv/profile \
        'https://127.0.0.1:2379/debug/pprof/profile?seconds=1'
    [ -s /srv/profile ]
    ! curl -fsS --cacert ca.crt https://127.0.0.1:2379/version 2>/dev/null || fail "let in without a certificate"
)
log_says 'rejected connection from'
journalctl -u ringd --no-pager -o json -p warning | grep -q 'rejected connection' || fail "the journal has no priorities"
cp /srv/ringd.conf.kept /etc/ringd/ringd.conf
systemctl restart ringd
kept
ok "TLS, profiles and the journal under the unit's restrictions"

pid=$(show MainPID)
echo '# a setting of the administrator' >>/etc/ringd/ringd.conf
dpkg -i target/packages/ringd_*.deb
is ActiveState active
[ "$(show MainPID)" != "$pid" ] || fail "the upgrade left the old program running"
grep -q 'of the administrator' /etc/ringd/ringd.conf || fail "the upgrade lost the settings"
kept
ok "an upgrade restarts it and keeps data and settings"

dpkg --remove ringd
! systemctl -q is-active ringd || fail "removed, and it runs"
! pgrep -x ringd >/dev/null || fail "removed, and the process runs"
[ -d /var/lib/ringd/default.etcd/member ] || fail "the removal lost the data"
asked=$(echo no | DEBIAN_FRONTEND=teletype dpkg --purge ringd 2>&1)
echo "$asked"
grep -q 'Remove the data in /var/lib/ringd?' <<<"$asked" || fail "the purge asks nothing"
[ -d /var/lib/ringd/default.etcd/member ] || fail "the purge took no for yes"
dpkg -i target/packages/ringd_*.deb
systemctl start ringd
kept
asked=$(echo yes | DEBIAN_FRONTEND=teletype dpkg --purge ringd 2>&1)
grep -q 'Remove the data in /var/lib/ringd?' <<<"$asked" || fail "the purge asks nothing: $asked"
[ ! -e /var/lib/ringd ] || fail "the purge took yes for no"
! pgrep -x ringd >/dev/null || fail "purged, and the process runs"
ok "a purge asks, and does what was answered"

echo "all of it holds under systemd"
