#!/bin/sh
# A distributed lock with a fencing token.
#
#   lock.sh NAME COMMAND...    waits for the lock, runs COMMAND with it, and lets it go
#
# COMMAND gets the token in FENCING_TOKEN: the created index of the lock's key, larger for each holder than for all
# before. The lock is kept alive while COMMAND runs; when that fails, COMMAND is stopped. RINGCTL: the client. TTL:
# seconds after which the lock of a holder that died is free (9).
set -u
: "${RINGCTL:=ringctl}" "${TTL:=9}"

key=/locks/$1
shift
holder=$(uname -n).$$.$(date +%s)
while ! answer=$("$RINGCTL" -o extended mk --ttl "$TTL" "$key" "$holder" 2>&1); do
    # `105: Key already exists (KEY) [INDEX]`: the next change of the key comes after that index.
    index=$(printf '%s\n' "$answer" | sed -n 's/.* 105: .*\[\([0-9]*\)\]$/\1/p')
    [ -n "$index" ] || { printf '%s\n' "$answer" >&2; exit 1; }
    "$RINGCTL" watch --after-index "$index" "$key" >/dev/null || exit 1
done
FENCING_TOKEN=$(printf '%s\n' "$answer" | sed -n 's/^Created-Index: //p')
export FENCING_TOKEN

"$@" &
command=$!
while sleep "$((TTL / 3))"; do
    # Only while it is still ours; a compare-and-swap keeps the created index.
    "$RINGCTL" set --ttl "$TTL" --swap-with-value "$holder" "$key" "$holder" >/dev/null 2>&1 || kill "$command"
done &
keeper=$!
trap 'kill "$command"' TERM INT
wait "$command"
status=$?
kill "$keeper" 2>/dev/null
"$RINGCTL" rm --with-value "$holder" "$key" >/dev/null 2>&1
exit "$status"
