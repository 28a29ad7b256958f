#!/usr/bin/env bash
# Calls the operators' endpoints of a real process, and writes commands and output between the marks in a
# document: transcript.sh FILE
set -euo pipefail
program=$(realpath "${CARGO_TARGET_DIR:-target}/debug/yatagarasu")
document=$(realpath "$1")
folder=$(mktemp -d)
port=${PORT:-18431}
trap 'kill "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"

umask 077
cat >config.yaml <<YAML
server: { address: 127.0.0.1, port: $port, threads: 2 }
jwt: { secret: a-secret-of-at-least-32-characters }
buckets:
  - name: photos
    path_prefix: /photos
    s3: { bucket: photos, region: eu-west-1, endpoint: "http://127.0.0.1:9000", access_key: AK, secret_key: SK }
    auth: { enabled: true }
YAML
"$program" --config config.yaml 2>log &
pid=$!
for _ in $(seq 100); do
    curl -fs "http://127.0.0.1:$port/readyz" >/dev/null && break
    sleep 0.1
done

export PROXY="http://127.0.0.1:$port" PID=$pid PATH="$(dirname "$program"):$PATH"
TOKEN=$(yatagarasu token --config config.yaml --claim role=admin --claim sub=ann)
export TOKEN

# Runs a command and prints it with its output: JSON is indented, digests are shortened.
say() {
    printf '$ %s\n' "$1"
    # Some commands are refused on purpose.
    (bash -c "$1" 2>&1 || true) | {
        if [[ $1 == *'curl -s '* && $1 != *'-o /dev/null'* && $1 != *metrics* && $1 != *admin/config* ]]; then
            python3 -m json.tool --indent 2
        else
            cat
        fi
    } | sed -E 's/(sha256:[0-9a-f]{12})[0-9a-f]{52}/\1…/g'
    printf '\n'
}

{
    printf '<!-- transcript -->\n```console\n'
    say 'curl -s -X POST -H "Authorization: Bearer $TOKEN" $PROXY/admin/reload'
    say 'sed -i s,/photos,/pictures, config.yaml'
    say 'curl -s -X POST -H "Authorization: Bearer $TOKEN" "$PROXY/admin/reload?dry_run=true"'
    say 'yatagarasu reload --config config.yaml'
    say 'sed -i s,eu-west-1,eu_west_1, config.yaml; yatagarasu config validate config.yaml'
    say 'curl -s -X POST -H "Authorization: Bearer $TOKEN" $PROXY/admin/reload'
    say 'kill -HUP $PID; sleep 0.3; curl -s $PROXY/metrics | grep ^config_'
    say 'curl -s -X POST -H "Authorization: Bearer $TOKEN" $PROXY/admin/rollback'
    say 'curl -s -H "Authorization: Bearer $TOKEN" $PROXY/admin/config'
    say 'curl -s -X POST -H "Authorization: Bearer $TOKEN" -H "If-Match: \"sha256:something-else\"" $PROXY/admin/reload'
    say 'curl -s -X POST $PROXY/admin/reload'
    printf '```\n<!-- /transcript -->\n'
} >transcript

python3 - "$document" transcript <<'PYTHON'
import re, sys
document, transcript = (open(name).read() for name in sys.argv[1:])
marked = re.compile(r"<!-- transcript -->.*<!-- /transcript -->\n", re.S)
assert marked.search(document), "no marks in the document"
open(sys.argv[1], "w").write(marked.sub(lambda _: transcript, document))
PYTHON
