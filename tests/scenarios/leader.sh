#!/bin/sh
# Leader election with hand-over.
#
#   leader.sh ELECTION CANDIDATE COMMAND...    runs COMMAND while CANDIDATE leads, again and again, until stopped
#   ringctl get /elections/ELECTION            who leads
#
# A leader that is stopped (TERM) stops COMMAND, then resigns: the next one leads at once. One that dies is replaced
# after TTL. COMMAND finds its term in LEADER_TERM. RINGCTL: the client. TTL: seconds (9).
set -u
: "${RINGCTL:=ringctl}" "${TTL:=9}"

key=/elections/$1 candidate=$2 stopping='' command='' waiting=''
shift 2
trap 'stopping=yes; kill $command $waiting 2>/dev/null' TERM INT

# Waits for something that a signal may interrupt.
pause() {
    "$@" >/dev/null 2>&1 &
    waiting=$!
    [ -z "$stopping" ] || kill "$waiting"
    wait "$waiting"
}

while [ -z "$stopping" ]; do
    if answer=$("$RINGCTL" -o extended mk --ttl "$TTL" "$key" "$candidate" 2>&1); then
        LEADER_TERM=$(printf '%s\n' "$answer" | sed -n 's/^Created-Index: //p') "$@" &
        command=$!
        while [ -z "$stopping" ] && kill -0 "$command" 2>/dev/null; do
            pause sleep "$((TTL / 3))"
            "$RINGCTL" set --ttl "$TTL" --swap-with-value "$candidate" "$key" "$candidate" >/dev/null 2>&1 || break
        done
        # First the work ends, then the office: never two leaders while both are well.
        kill "$command" 2>/dev/null
        wait "$command"
        "$RINGCTL" rm --with-value "$candidate" "$key" >/dev/null 2>&1
    else
        index=$(printf '%s\n' "$answer" | sed -n 's/.* 105: .*\[\([0-9]*\)\]$/\1/p')
        if [ -n "$index" ]; then
            pause "$RINGCTL" watch --after-index "$index" "$key"
        else
            pause sleep 1
        fi
    fi
done
