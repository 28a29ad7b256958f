#!/bin/sh
# Makes sure that everything `make demo` and `make test` need is there, and the programs that are named
# as arguments. Silent, quick and without root when it is. What apt-get can install is installed; for the
# rest it says what to do.
set -eu
cd "$(dirname "$0")/.."

# The one place that says which Rust is needed is Cargo.toml.
needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

fail() {
    echo "setup: $*" >&2
    exit 1
}

[ "$(uname)" = Linux ] || fail "yatagarasu is for Linux only"

missing=
for program in cc cmake make curl "$@"; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done

if [ -n "$missing" ]; then
    command -v apt-get >/dev/null 2>&1 ||
        fail "missing:$missing; install them with your package manager (cc is a C compiler)"
    packages=
    for program in $missing; do
        case $program in
            cc) packages="$packages build-essential" ;;
            ansible-playbook) packages="$packages ansible-core" ;;
            systemd-analyze) packages="$packages systemd" ;;
            *) packages="$packages $program" ;;
        esac
    done
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 || fail "missing:$missing; as root, run: apt-get install$packages"
        as_root=sudo
    fi
    # A fresh machine or container has no package lists yet.
    $as_root apt-get update
    # shellcheck disable=SC2086 # a list of words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates $packages
    for program in $missing; do
        command -v "$program" >/dev/null 2>&1 || fail "$program is still missing after the installation"
    done
fi

rustup="install Rust $needed or later: see https://rustup.rs, or run: rustup toolchain install stable"
command -v cargo >/dev/null 2>&1 || fail "cargo is missing; $rustup"
command -v rustc >/dev/null 2>&1 || fail "rustc is missing; $rustup"
found=$(rustc --version | cut -d ' ' -f 2)
# `rustc 1.100` is newer than `rustc 1.95`, so a comparison of numbers and not of texts.
lowest=$(printf '%s\n%s\n' "$needed" "$found" | sort -t . -k 1,1n -k 2,2n | head -n 1)
[ "$lowest" = "$needed" ] || fail "rustc is $found; $rustup"
