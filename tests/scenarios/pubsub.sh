#!/bin/sh
# Publish and subscribe: messages are in-order keys that live for a while.
#
#   pubsub.sh publish TOPIC MESSAGE
#   pubsub.sh position TOPIC              prints the index from which to subscribe to all that is to come
#   pubsub.sh subscribe TOPIC [INDEX]     prints messages, one per line, that came after INDEX, or from now on
#
# RINGCTL: the client. KEEP: seconds a message is kept (600).
set -eu
: "${RINGCTL:=ringctl}" "${KEEP:=600}"

publish() { # TOPIC MESSAGE
    "$RINGCTL" mk --in-order --ttl "$KEEP" "/topics/$1" -- "$2" >/dev/null
}

position() { # TOPIC
    "$RINGCTL" mkdir "/topics/$1" 2>/dev/null || true
    "$RINGCTL" -o extended ls "/topics/$1" | sed -n 's/^Index: //p'
}

subscribe() { # TOPIC [INDEX]
    # Each event is two lines: `[action] key` and the value. Expired and removed messages are no news.
    "$RINGCTL" watch --recursive --forever --after-index "${2:-$(position "$1")}" "/topics/$1" |
        while read -r action _ && IFS= read -r message; do
            [ "$action" != '[create]' ] || printf '%s\n' "$message"
        done
}

command=$1
shift
"$command" "$@"
