#!/bin/sh
# The watcher part of `cargo bench --bench scale` on a kernel of its own, for machines that allow a process fewer
# descriptors than 50,000 watchers need: user-mode Linux (Debian's user-mode-linux), which needs no rights.
# Its one slow virtual core makes every time meaningless; the memory per watcher is the figure to read.
#
# usage: benches/scale/many_watchers.sh      MEMORY=10G TIME_LIMIT=900 (seconds) can be set
set -eu
cd "$(dirname "$0")/../.."
command -v linux.uml >/dev/null || { echo "many_watchers: no linux.uml here (apt-get install user-mode-linux)" >&2; exit 2; }
built=$(cargo bench --locked --no-run --bench scale 2>&1) || { echo "$built" >&2; exit 1; }
scale=$(echo "$built" | sed -n 's/.*Executable .*(\(.*scale-.*\))$/\1/p')
scratch=$(realpath target/tmp)
boot=$(mktemp -d)
trap 'rm -rf "$boot"' EXIT
cat >"$boot/init" <<INIT
#!/bin/sh
mount -t proc proc /proc
mount -t tmpfs -o size=2g scratch $scratch
ip link set lo up
# Ports for 50,000 clients, and descriptors.
echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range
ulimit -n 200000
ulimit -l unlimited
cd $PWD
uname -srm
$scale --bench --only watchers
echo o >/proc/sysrq-trigger
sleep 60
INIT
chmod +x "$boot/init"
# A pipe on its input: it must not take the terminal.
: | timeout "${TIME_LIMIT:-900}" linux.uml rootfstype=hostfs rootflags=/ ro mem="${MEMORY:-10G}" init="$boot/init" \
    con=null con0=fd:0,fd:1 2>&1 | sed -n '/^Linux .* x86_64/,$p'
