#!/usr/bin/env bash
# Checks the image without a container engine. Runs the Dockerfile's build commands on a copy of the files
# that an engine would send. Then runs the program as PID 1 of a new PID namespace, and checks that it
# answers, reloads on SIGHUP and ends on SIGTERM. BIN=path uses a program that is already built.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
namespace=
finish() {
    # --kill-child ends the program with the namespace.
    [[ -z $namespace ]] || kill -KILL "$namespace" 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT

fail() {
    echo "check-image: $*" >&2
    [[ ! -s $folder/log ]] || sed 's/^/  log: /' "$folder/log" >&2
    exit 1
}

said() { printf 'ok  %s\n' "$*"; }

# Runs a command every 0.1 seconds until it succeeds, for at most 15 seconds.
eventually() {
    for _ in {1..150}; do
        if "$@"; then return; fi
        sleep 0.1
    done
    return 1
}

# Prints the Dockerfile with one instruction on each line.
instructions() { sed -e '/^#/d' -e ':join' -e '/\\$/{N;s/\\\n */ /;bjoin' -e '}' Dockerfile; }

# --- instructions

instructions | grep -q '^ENTRYPOINT \["/usr/local/bin/yatagarasu"\]$' || fail 'ENTRYPOINT is not the bare program in exec form'
user=$(instructions | sed -n 's/^USER //p')
[[ $user =~ ^[1-9][0-9]*:[1-9][0-9]*$ ]] || fail "USER is \`$user\`, not two numbers other than 0"
said "the entry point is the program itself, as user $user"

# --- build

if [[ -n ${BIN:-} ]]; then
    [[ -x $BIN ]] || fail "BIN=$BIN is no program"
    said "program $BIN, as given; the build commands are not run"
else
    target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
    # The same path every time, because Cargo keeps a build for each path.
    context=$target/check-image
    rm -rf "$context"
    mkdir -p "$context"
    sed -n 's/^!//p' .dockerignore | while read -r path; do
        [[ ! -e $path ]] || cp -R --parents "$path" "$context"
    done
    # Stands for the cache mount of an engine.
    ln -s "$target" "$context/target"
    commands=$(instructions | sed -n -e 's/--mount=[^ ]* *//g' -e 's/^RUN \(.*cargo.*\)/\1/p')
    [[ -n $commands ]] || fail 'no RUN line of the Dockerfile calls cargo'
    while IFS= read -r command; do
        echo "+ $command"
        (cd "$context" && unset CARGO_TARGET_DIR && sh -ec "$command" </dev/null)
    done <<<"$commands"
    BIN=$context$(instructions | sed -n 's|^COPY --from=build /build\(/[^ ]*\) /usr/local/bin/yatagarasu$|\1|p')
    [[ -x $BIN && ! -d $BIN ]] || fail 'the build left no program where the Dockerfile copies it from'
    said 'the build commands of the Dockerfile work on what .dockerignore lets pass'
fi

# --- run

# The image's user must be able to read the folder.
chmod 755 "$folder"
install -m 755 "$BIN" "$folder/yatagarasu"
for attempt in {1..5}; do
    port=$((20000 + RANDOM % 10000))
    printf 'server: { address: 127.0.0.1, port: %d }\nbuckets: []\n' "$port" >"$folder/config.yaml"
    run=(unshare --fork --pid --mount-proc --kill-child)
    if [[ $EUID == 0 ]]; then
        # setpriv becomes the program, which stays PID 1.
        program=(setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups "$folder/yatagarasu")
    else
        run+=(--map-root-user)
        program=("$folder/yatagarasu")
    fi
    env -i "PATH=$PATH" "${run[@]}" "${program[@]}" --config "$folder/config.yaml" 2>"$folder/log" &
    namespace=$!
    healthy() { bash scripts/healthcheck.sh "$port" 2>/dev/null || ! kill -0 "$namespace" 2>/dev/null; }
    eventually healthy || fail 'the program does not answer /healthz'
    if kill -0 "$namespace" 2>/dev/null; then break; fi
    namespace=
    # Another program may hold the port.
    [[ $attempt != 5 ]] && grep -q 'cannot listen' "$folder/log" || fail 'the program ended'
done
# Outside the namespace the program has another id.
pid=$(cat "/proc/$namespace/task/$namespace/children")
pid=${pid%% *}
[[ $(awk '/^NSpid:/ { print $NF }' "/proc/$pid/status") == 1 ]] || fail "process $pid is not PID 1 of its namespace"
[[ $(curl -sS --max-time 5 "http://127.0.0.1:$port/health") == ok ]] || fail '/health does not say ok'
said 'PID 1 answers /health, and the health check of the image succeeds'

generation() { curl -sS --max-time 5 "http://127.0.0.1:$port/metrics" | grep -qx "config_generation $1"; }
generation 1 || fail 'the first generation is not in service'
kill -HUP "$pid"
eventually generation 2 || fail 'SIGHUP to PID 1 did not reload'
said 'SIGHUP to PID 1 reloads: config_generation 2'

kill -TERM "$pid"
ended() { ! kill -0 "$namespace" 2>/dev/null; }
eventually ended || fail 'SIGTERM did not end PID 1'
code=0
wait "$namespace" || code=$?
namespace=
[[ $code == 0 ]] || fail "PID 1 ended with $code after SIGTERM"
! bash scripts/healthcheck.sh "$port" 2>/dev/null || fail 'the health check succeeds without a program'
said 'SIGTERM ends PID 1 with exit code 0, and then the health check fails'
