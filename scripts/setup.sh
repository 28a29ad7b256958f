#!/bin/sh
# Checks that the programs for `make demo` and `make test` are installed, and those named as arguments.
# If all are, it prints nothing and needs no root. It installs missing programs with apt-get, and
# cargo-deny with cargo; for Rust itself it prints what to do.
set -eu
cd "$(dirname "$0")/.."

# Only Cargo.toml says which version of Rust is needed.
needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

fail() {
    echo "setup: $*" >&2
    exit 1
}

[ "$(uname)" = Linux ] || fail "yatagarasu is for Linux only"

missing=
wants_deny=
for program in cc cmake make curl "$@"; do
    case $program in
        cargo-deny) wants_deny=yes ;;
        *) command -v "$program" >/dev/null 2>&1 || missing="$missing $program" ;;
    esac
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
# Compares numbers, because `rustc 1.100` is newer than `rustc 1.95`.
lowest=$(printf '%s\n%s\n' "$needed" "$found" | sort -t . -k 1,1n -k 2,2n | head -n 1)
[ "$lowest" = "$needed" ] || fail "rustc is $found; $rustup"

# Built without link-time optimisation, because it runs for seconds and would take minutes more to build.
if [ -n "$wants_deny" ] && ! cargo deny --version >/dev/null 2>&1; then
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install --quiet --locked cargo-deny --version 0.20.2
fi
