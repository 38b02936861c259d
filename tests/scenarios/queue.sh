#!/bin/sh
# A distributed queue on in-order keys: first in, first out, each item for one consumer.
#
#   queue.sh push QUEUE ITEM
#   queue.sh pop QUEUE          waits for an item, takes it and prints it
#
# RINGCTL: the client.
set -eu
: "${RINGCTL:=ringctl}"

push() { # QUEUE ITEM
    "$RINGCTL" mk --in-order "/queues/$1" -- "$2" >/dev/null
}

pop() { # QUEUE
    "$RINGCTL" mkdir "/queues/$1" 2>/dev/null || true
    while :; do
        index=$("$RINGCTL" -o extended ls "/queues/$1" | sed -n 's/^Index: //p')
        for key in $("$RINGCTL" ls --sort "/queues/$1"); do
            item=$("$RINGCTL" get "$key" 2>/dev/null) || continue
            # Many may read an item, one can delete it: that one has it.
            if "$RINGCTL" rm "$key" >/dev/null 2>&1; then
                printf '%s\n' "$item"
                return
            fi
        done
        "$RINGCTL" watch --recursive --after-index "$index" "/queues/$1" >/dev/null
    done
}

command=$1
shift
"$command" "$@"
