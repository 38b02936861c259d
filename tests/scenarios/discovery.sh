#!/bin/sh
# Service registration with a heartbeat, and a haproxy backend list made of who is alive.
#
#   discovery.sh register SERVICE NAME HOST:PORT    stays in the list until it is stopped, or for TTL after it died
#   discovery.sh backends SERVICE                   prints the list once
#   discovery.sh follow SERVICE FILE [COMMAND...]   keeps FILE up to date and runs COMMAND after each change of it
#
# RINGCTL: the client. ETCDCTL_ENDPOINTS: one client URL. TTL: seconds (6).
set -eu
: "${RINGCTL:=ringctl}" "${ETCDCTL_ENDPOINTS:=http://127.0.0.1:2379}" "${TTL:=6}"
export ETCDCTL_ENDPOINTS

register() { # SERVICE NAME HOST:PORT
    key=/services/$1/$2
    trap '"$RINGCTL" rm "$key" >/dev/null 2>&1; exit 0' TERM INT
    while :; do
        # A refresh moves the deadline and wakes no watcher. It fails when the key has expired: then it is set again.
        curl -sf -o /dev/null -X PUT "$ETCDCTL_ENDPOINTS/v2/keys$key" -d refresh=true -d prevExist=true -d "ttl=$TTL" ||
            "$RINGCTL" set --ttl "$TTL" "$key" "$3" >/dev/null || true
        sleep "$((TTL / 3))" &
        wait $!
    done
}

backends() { # SERVICE
    printf 'backend %s\n' "$1"
    "$RINGCTL" ls --sort "/services/$1" | while read -r key; do
        # Whoever expires between the list and this read is no backend any more.
        address=$("$RINGCTL" get "$key" 2>/dev/null) && printf '    server %s %s check\n' "${key##*/}" "$address"
    done
}

follow() { # SERVICE FILE [COMMAND...]
    service=$1 file=$2
    shift 2
    "$RINGCTL" mkdir "/services/$service" 2>/dev/null || true
    while :; do
        # The index first: what changes while the list is read is then seen by the watch.
        index=$("$RINGCTL" -o extended ls "/services/$service" | sed -n 's/^Index: //p')
        backends "$service" >"$file.new"
        if cmp -s "$file.new" "$file"; then
            rm "$file.new"
        else
            mv "$file.new" "$file"
            [ $# -eq 0 ] || "$@"
        fi
        "$RINGCTL" watch --recursive --after-index "$index" "/services/$service" >/dev/null
    done
}

command=$1
shift
"$command" "$@"
