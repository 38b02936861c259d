#!/bin/sh
# What a lock protects must look at the token itself: a store that refuses tokens older than the newest it has seen.
#
#   FENCING_TOKEN=N fenced_write.sh FILE LINE    appends LINE to FILE
set -eu
exec 9>>"$1.token"
flock 9
newest=$(tail -n 1 "$1.token")
[ "$FENCING_TOKEN" -ge "${newest:-0}" ] || { echo "refused: token $FENCING_TOKEN, seen $newest" >&2; exit 1; }
echo "$FENCING_TOKEN" >&9
printf '%s\n' "$2" >>"$1"
