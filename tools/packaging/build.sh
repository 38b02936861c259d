#!/usr/bin/env bash
# Makes the .deb and the .rpm of a release build that is there already (cargo build --release --workspace --bins), from
# the lists in Cargo.toml, into TARGET/packages. The two cargo tools are installed into TARGET/tools on first use;
# `build.sh tools` does only that.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Pinned: what a package holds must not change because a tool did.
cargo_deb=3.8.0
cargo_generate_rpm=0.21.1

target=${CARGO_TARGET_DIR:-target}
release=$target/release
# Where the lists in Cargo.toml look.
staged=$release/package
tools=$target/tools

# A debug build of a tool that runs for seconds is there in half the time.
tool() {
    if [ "$("$tools/bin/$1" --version 2>/dev/null | tail -n 1 | sed 's/.* //')" != "$2" ]; then
        CARGO_TARGET_DIR=$target/tools-build cargo install --quiet --debug --locked --force --root "$tools" \
            --no-default-features "$1@$2"
    fi
}

tool cargo-deb $cargo_deb
tool cargo-generate-rpm $cargo_generate_rpm
if [ "${1:-}" = tools ]; then exit; fi

rm -rf "$staged"
mkdir -p "$staged" "$target/packages"
for program in ringd ringctl ringwal ringbench; do
    # Names of functions stay, for profiles and backtraces; what a debugger wants does not.
    strip --strip-debug -o "$staged/$program" "$release/$program"
done
"$release/ringd" --man | gzip -9n >"$staged/ringd.1.gz"
"$release/ringctl" man | gzip -9n >"$staged/ringctl.1.gz"
for shell in bash zsh fish; do
    "$release/ringd" --completion "$shell" >"$staged/ringd.$shell"
    "$release/ringctl" completion "$shell" >"$staged/ringctl.$shell"
done

export CARGO_TARGET_DIR=$target
"$tools/bin/cargo-deb" --quiet --no-build --no-strip --compress-type gz --compress-system --output "$target/packages/"
"$tools/bin/cargo-generate-rpm" --target-dir "$target" --payload-compress gzip --auto-req disabled \
    --output "$target/packages/"
ls -l "$target/packages"
