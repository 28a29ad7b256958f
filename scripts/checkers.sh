#!/usr/bin/env bash
# Holds that the tests can fail. Applies each patch in tests/it/defects/ to a copy of the tree, builds
# the program there, and runs the one test that the patch names, which must fail. The same tests must
# pass against the copy without a patch. The copy is target/checkers; it begins with a copy of the compiled
# dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
copy=$root/target/checkers
log=$root/target/checkers.log
compiled=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug
# A build directory that both share would not do: Cargo takes the packages of two copies of a workspace for
# the same ones, so that later builds here would find the defective program and call it fresh.
export CARGO_TARGET_DIR=$copy/target CARGO_TERM_COLOR=never
# Git applies nothing below a directory that its repository ignores, so it must not see the repository.
export GIT_CEILING_DIRECTORIES=$root/target

fail() {
    printf 'checkers: %s\n' "$1" >&2
    tail -n 40 "$log" >&2
    exit 1
}

# Beside an example the program is built with the same dependencies as beside the tests.
build() {
    cargo build --locked --features faults --bin yatagarasu --example store >"$log" 2>&1 ||
        fail "$1: does not build"
}

passes() {
    "$tests" --exact "$1" >"$log" 2>&1
}

caught_by() {
    sed -n 's/^# caught-by: //p' "$1"
}

# What belongs to the packages of the workspace is built anew.
if [[ ! -d $copy/target/debug && -d $compiled/deps ]]; then
    mkdir -p "$copy/target/debug"
    tar --create --directory "$compiled" --exclude='*yatagarasu*' --exclude='*kit-*' --exclude='it-*' \
        .fingerprint build deps | tar --extract --directory "$copy/target/debug"
fi
mkdir -p "$copy"
find "$copy" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
# Modified now, so that Cargo never takes what an earlier run built for up to date.
tar --create --exclude=./target --exclude=./fuzz/target --exclude=./.git . |
    tar --extract --touch --directory "$copy"
cd "$copy"

cargo test --locked --features faults --test it --no-run >"$log" 2>&1 || fail "the tests do not build"
tests=$(sed -n 's/^ *Executable tests\/it\/main.rs (\(.*\))$/\1/p' "$log")
patches=("$root"/tests/it/defects/*.patch)
for patch in "${patches[@]}"; do
    test=$(caught_by "$patch")
    passes "$test" || fail "$test fails without a defect"
    grep -q '^test result: ok. 1 passed' "$log" || fail "${patch#"$root"/}: there is no test \`$test\`"
done

for patch in "${patches[@]}"; do
    test=$(caught_by "$patch")
    git apply "$patch" >"$log" 2>&1 || fail "${patch#"$root"/}: does not apply"
    build "${patch#"$root"/}"
    ! passes "$test" || fail "${patch#"$root"/}: $test does not notice"
    git apply --reverse "$patch"
    printf '%s is caught by %s\n' "$(basename "$patch" .patch)" "$test"
done
