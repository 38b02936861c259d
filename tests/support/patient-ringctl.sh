#!/bin/sh
# ringctl with time limits for a busy machine: by itself it waits two seconds for an answer. RINGCTL_PROGRAM: the client.
exec "$RINGCTL_PROGRAM" --timeout 60s --total-timeout 120s "$@"
