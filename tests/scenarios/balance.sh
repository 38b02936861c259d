#!/bin/sh
# Load balancing in the client: requests go to the live backends of a service in turn.
#
#   balance.sh SERVICE PATH    answers with the body from the next backend that works
#
# Backends register as in discovery.sh. RINGCTL: the client. TURN: the file with the turn of this client. PATIENCE:
# seconds until a backend that does not answer is passed over (2).
set -eu
: "${RINGCTL:=ringctl}" "${TURN:=${TMPDIR:-.}/balance.$1.turn}" "${PATIENCE:=2}"

turn=$(cat "$TURN" 2>/dev/null || echo 0)
echo $((turn + 1)) >"$TURN"
addresses=$("$RINGCTL" ls --sort "/services/$1" | while read -r key; do "$RINGCTL" get "$key" 2>/dev/null || true; done)
# shellcheck disable=SC2086 # addresses have no blanks
set -- "$2" $addresses
path=$1
shift
[ $# -gt 0 ] || { echo "no backend is alive" >&2; exit 1; }
start=$((turn % $#)) tried=0
while [ "$tried" -lt $# ]; do
    # The list is rotated by the turn; a backend that has died but not expired yet is passed over.
    eval "address=\${$(((start + tried) % $# + 1))}"
    curl -sf --max-time "$PATIENCE" "http://$address$path" && exit 0
    tried=$((tried + 1))
done
echo "none of $# backends answers" >&2
exit 1
