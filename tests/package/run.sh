#!/usr/bin/env bash
# Installs the .deb into a scratch root and lives with it: dpkg runs for real, with its scripts, in a copy-on-write view of
# this machine (an overlay in a mount namespace of our own), so that nothing of the machine changes. Then what the package
# holds runs: ringd with the settings as shipped, ringctl, ringwal; an upgrade, a removal, two purges. Then the same with
# the .rpm, by Debian's rpm where there is one. systemd.sh is the long form, with a real systemd.
# Needs root, dpkg and a kernel that lets us mount; says that it skips without.
# Usage: run.sh DIRECTORY_WITH_THE_PACKAGES
set -euo pipefail

skip() {
    echo "skipped the package test: $*"
    exit 0
}

# The longest that anything may take which must happen at all.
patience=60

if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" -eq 0 ] || skip "it needs root"
    for program in dpkg unshare mount chroot curl ip; do
        command -v $program >/dev/null || skip "there is no $program"
    done
    packages=$(cd "$1" && pwd)
    ls "$packages"/ringd_*.deb "$packages"/ringd-*.rpm >/dev/null
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    mkdir "$scratch/store" "$scratch/root" "$scratch/packages"
    cp "$packages"/ringd_*.deb "$packages"/ringd-*.rpm "$scratch/packages/"
    # Mounts, processes and ports of our own; all end with the namespace.
    unshare --mount --net --pid --fork --kill-child true 2>/dev/null || skip "namespaces are not allowed here"
    unshare --mount --net --pid --fork --kill-child "$0" --inside "$scratch"
    exit
fi

scratch=$2
mount -t tmpfs store "$scratch/store"
mkdir "$scratch/store/upper" "$scratch/store/work"
root=$scratch/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/store/upper,workdir=$scratch/store/work" "$root" 2>/dev/null ||
    skip "overlays are not allowed here"
ip link set lo up
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs run "$root/run"
mount -t tmpfs tmp "$root/tmp"
mkdir "$root/tmp/packages"
cp "$scratch"/packages/* "$root/tmp/packages/"

inside() {
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}

# The client as packed, with time limits for a busy machine.
ctl() {
    inside ringctl --timeout 60s --total-timeout 120s "$@"
}

fail() {
    echo "package test: $*" >&2
    [ ! -e "$root/tmp/ringd.log" ] || tail -n 50 "$root/tmp/ringd.log" >&2
    exit 1
}

# Starts ringd as the unit does: its user, its environment file, its limits; waits until it is ready.
start() {
    (
        set -a
        # shellcheck disable=SC1091
        . "$root/etc/ringd/ringd.conf"
        set +a
        cd "$root"
        ulimit -l 8192
        exec chroot --userspec=ringd:ringd "$root" /usr/bin/ringd
    ) >"$root/tmp/ringd.log" 2>&1 &
    server=$!
    local begun=$SECONDS
    until curl -fsS -o /dev/null http://127.0.0.1:2379/readyz 2>/dev/null; do
        kill -0 $server 2>/dev/null || fail "ringd ended"
        [ $((SECONDS - begun)) -lt $patience ] || fail "ringd is not ready"
        sleep 0.1
    done
}

stop() {
    kill -TERM $server
    wait $server || true
}

expect() {
    local what=$1 found
    shift
    found=$("$@") || fail "$* ended with $?"
    [ "$found" = "$what" ] || fail "$* said '$found', not '$what'"
}

install_deb() {
    inside sh -c 'dpkg --force-depends -i /tmp/packages/ringd_*.deb' || fail "dpkg -i failed"
}

data=/var/lib/ringd
rm -rf "${root:?}$data"

install_deb
expect "ringd" inside stat -c %U $data
expect "700" inside stat -c %a $data
# Some machines tell dpkg to leave documentation out, so the list is the package's own.
packed=$(inside sh -c 'dpkg-deb -c /tmp/packages/ringd_*.deb')
for file in /usr/bin/{ringd,ringctl,ringwal,ringbench} /etc/ringd/ringd.conf /usr/share/man/man1/ring{d,ctl}.1.gz \
    /usr/share/bash-completion/completions/ring{d,ctl} /usr/share/doc/ringd/{copyright,README.md} ringd.service; do
    grep -q "$file\$" <<<"$packed" || fail "there is no $file: $packed"
done
! grep -q ringsim <<<"$packed" || fail "the simulator is packed"
inside dpkg-query -W -f '${Conffiles}' ringd | grep -q /etc/ringd/ringd.conf || fail "the settings are no conffile"
if inside sh -c 'command -v systemd-analyze' >/dev/null; then
    unit=$(inside dpkg -L ringd | grep 'ringd\.service$')
    # It also looks at manual pages, which need not be readable here.
    inside systemd-analyze verify --man=no "$unit" || fail "systemd refuses the unit"
fi

start
expect "value" ctl set /kept value
expect "value" ctl get /kept
ctl cluster-health | grep -q 'cluster is healthy' || fail "not healthy"
stop
inside ringwal stat $data/default.etcd >/dev/null || fail "ringwal stat failed"

echo '# a setting of the administrator' >>"$root/etc/ringd/ringd.conf"
install_deb
grep -q 'of the administrator' "$root/etc/ringd/ringd.conf" || fail "the upgrade lost the settings"
start
expect "value" ctl get /kept
stop

inside dpkg --remove ringd
[ -e "$root/etc/ringd/ringd.conf" ] || fail "the removal lost the settings"
[ ! -e "$root/usr/bin/ringd" ] || fail "the removal left the program"
[ -d "$root$data/default.etcd/member" ] || fail "the removal lost the data"

inside dpkg --purge ringd
[ ! -e "$root/etc/ringd/ringd.conf" ] || fail "the purge left the settings"
[ -d "$root$data/default.etcd/member" ] || fail "the purge destroyed data unasked"

install_deb
start
expect "value" ctl get /kept
stop
inside env RINGD_PURGE_DATA=yes dpkg --purge ringd
[ ! -e "$root$data" ] || fail "the confirmed purge left the data"
echo "the .deb installs, runs, upgrades, and leaves data alone"

inside sh -c 'command -v rpm' >/dev/null || skip "of the .rpm: there is no rpm"
# Nothing of Debian's is in rpm's own database, hence --nodeps.
run_rpm() {
    inside rpm --dbpath /tmp/rpm "$@" || fail "rpm $* failed"
}
rpm=/tmp/packages/$(basename "$scratch"/packages/ringd-*.rpm)
run_rpm -i --force-debian --nodeps "$rpm"
expect "ringd" inside stat -c %U $data
expect "700" inside stat -c %a $data
packed=$(run_rpm -ql ringd)
for file in /usr/bin/{ringd,ringctl,ringwal,ringbench} /etc/ringd/ringd.conf /usr/share/man/man1/ring{d,ctl}.1.gz \
    /usr/share/bash-completion/completions/ring{d,ctl} /usr/share/doc/ringd/{LICENSE,README.md} \
    /usr/lib/systemd/system/ringd.service /usr/lib/{sysusers,tmpfiles}.d/ringd.conf; do
    grep -qx "$file" <<<"$packed" || fail "there is no $file: $packed"
done
! grep -q ringsim <<<"$packed" || fail "the simulator is packed"
expect "/etc/ringd/ringd.conf" run_rpm -q --configfiles ringd
start
expect "value" ctl set /kept value
inside ringbench put --target http://127.0.0.1:2379 --clients 4 --duration 1s >/dev/null || fail "ringbench failed"
stop
inside ringwal stat $data/default.etcd >/dev/null || fail "ringwal stat failed"
echo '# a setting of the administrator' >>"$root/etc/ringd/ringd.conf"
run_rpm -U --force-debian --nodeps --force "$rpm"
grep -q 'of the administrator' "$root/etc/ringd/ringd.conf" || fail "the upgrade lost the settings"
start
expect "value" ctl get /kept
stop
run_rpm -e --nodeps ringd
[ ! -e "$root/usr/bin/ringd" ] || fail "the removal left the program"
[ -e "$root/etc/ringd/ringd.conf.rpmsave" ] || fail "the removal lost the settings"
[ -d "$root$data/default.etcd/member" ] || fail "the removal lost the data"
echo "the .rpm installs, runs, upgrades, and leaves data alone"
