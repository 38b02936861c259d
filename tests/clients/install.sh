#!/usr/bin/env bash
# Installs the clients that tests/clients tests, in exactly the versions of requirements.txt and package-lock.json, into
# tmp/clients of the target dir, and nowhere else. What is there already in these versions stays, so a rerun does nothing.
# A client that cannot be had (no python, no node, no registry) is left out: its tests then say that they skip, and why.
# No package's install scripts run: node-etcd's one native dependency is only for calls that the tests do not make.
set -euo pipefail
cd "$(dirname "$0")"

# One download may fail; a registry that cannot be reached must not hold up everything else.
limit_seconds=300
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
into=$target/tmp/clients
mkdir -p "$into"

python_etcd() {
    command -v python3 || { echo "no python3"; return 1; }
    python3 -c 'import ensurepip, venv' || { echo "python3 has no venv (Debian: python3-venv)"; return 1; }
    python3 -m venv "$1" || return 1
    timeout $limit_seconds "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
        --retries 1 --timeout 30 --requirement requirements.txt
}

node_etcd() {
    command -v node || { echo "no node"; return 1; }
    command -v npm || { echo "no npm"; return 1; }
    mkdir "$1" || return 1
    cp package.json package-lock.json "$1" || return 1
    (cd "$1" && timeout $limit_seconds npm ci --ignore-scripts --no-audit --no-fund --fetch-retries=1)
}

# NAME STAMP: installs by calling the function NAME; STAMP is the file that says which versions are wanted.
client() {
    local dir=$into/$1
    if cmp -s "$2" "$dir/installed"; then
        echo "$1: there already"
        return
    fi
    rm -rf "$dir"
    if "$1" "$dir" >"$dir.log" 2>&1; then
        cp "$2" "$dir/installed"
        rm "$dir.log"
        echo "$1: installed into $dir"
    else
        # The log stays: the tests quote its last line.
        rm -rf "$dir"
        echo "$1: not installed: $(tail -n 1 "$dir.log")"
    fi
}

client python_etcd requirements.txt
client node_etcd package-lock.json
