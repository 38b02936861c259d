#!/bin/sh
# Notification and coordination: workers that react to a changed setting, and a barrier they meet at.
#
#   coordination.sh on-change KEY COMMAND...      runs COMMAND for the value KEY has and for each later one (in VALUE)
#   coordination.sh barrier NAME COUNT WORKER     returns when COUNT workers have arrived
#
# RINGCTL: the client.
set -eu
: "${RINGCTL:=ringctl}"

on_change() { # KEY COMMAND...
    key=$1
    shift
    while :; do
        # The value and the index it was read at belong together; the watch begins right after.
        if answer=$("$RINGCTL" -o extended get "$key" 2>&1); then
            index=$(printf '%s\n' "$answer" | sed -n 's/^Index: //p')
            VALUE=$("$RINGCTL" get "$key") "$@" || true
        else
            # `100: Key not found (KEY) [INDEX]`
            index=$(printf '%s\n' "$answer" | sed -n 's/.* 100: .*\[\([0-9]*\)\]$/\1/p')
            [ -n "$index" ] || { printf '%s\n' "$answer" >&2; exit 1; }
        fi
        "$RINGCTL" watch --after-index "$index" "$key" >/dev/null
    done
}

barrier() { # NAME COUNT WORKER
    # Whoever arrives twice counts once.
    "$RINGCTL" set "/barriers/$1/arrived/$3" here >/dev/null
    index=$("$RINGCTL" -o extended ls "/barriers/$1/arrived" | sed -n 's/^Index: //p')
    while [ "$("$RINGCTL" ls "/barriers/$1/arrived" | wc -l)" -lt "$2" ]; do
        "$RINGCTL" watch --recursive --after-index "$index" "/barriers/$1/arrived" >/dev/null
        index=$((index + 1))
    done
}

case $1 in
on-change) shift && on_change "$@" ;;
barrier) shift && barrier "$@" ;;
*) echo "no such command: $1" >&2 && exit 1 ;;
esac
