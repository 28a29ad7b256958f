#!/usr/bin/env bash
# Has the files below deploy/ read by the programs that they are for: the systemd units, the alerts and
# their tests, the manifest for Kubernetes. Starts nothing. A program that cannot be installed is named,
# and its files are not checked. The playbook and the configurations are checked by `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools
mkdir -p "$tools"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

skipped() { printf 'not checked: %s\n' "$*"; }

# --- systemd

# What systemd has against the unit. Its exit code does not count what it could not parse.
complaints() { systemd-analyze verify "$1" 2>&1 || true; }

fail() {
    printf 'check-deploy: %s\n' "$*" >&2
    exit 1
}

# The unit alone for every systemd, with the drop-in for those that know it.
verify_unit() {
    local unit=$folder/yatagarasu.service said
    # The programs and the user need not be installed here.
    sed -e 's|/usr/local/bin/yatagarasu|/bin/true|; s|/bin/kill|/bin/true|; /^User=/d; /^Group=/d' \
        deploy/systemd/yatagarasu.service >"$unit"
    said=$(complaints "$unit")
    [[ -z $said ]] || fail "yatagarasu.service: $said"
    printf 'ok  systemd %s takes the unit\n' "$1"
    mkdir "$unit.d"
    cp deploy/systemd/notify-reload.conf "$unit.d"
    said=$(complaints "$unit")
    if (($1 >= 253)); then
        [[ -z $said ]] || fail "notify-reload.conf: $said"
        printf 'ok  systemd %s takes the unit with its drop-in\n' "$1"
        return
    fi
    # What an older one says about the new type shows that it has read the drop-in, and must be all.
    [[ $said == *'notify-reload.conf:'*'service type'*notify-reload && $said != *$'\n'* ]] ||
        fail "notify-reload.conf: $said"
    printf 'ok  systemd %s knows all of the drop-in but its type\n' "$1"
}

if scripts/setup.sh systemd-analyze; then
    verify_unit "$(systemd-analyze --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')"
else
    skipped 'deploy/systemd, for want of systemd-analyze'
fi

# --- Prometheus

# Debian's package also starts a server, so promtool is taken out of it and nothing is installed.
fetch_promtool() {
    (
        cd "$folder"
        apt-get download prometheus >/dev/null 2>&1 ||
            { apt-get update >/dev/null && apt-get download prometheus >/dev/null; }
        dpkg-deb --extract prometheus_*.deb prometheus
        mv prometheus/usr/bin/promtool "$tools"
    ) 2>/dev/null
}

PATH=$PATH:$tools
if command -v promtool >/dev/null || fetch_promtool; then
    promtool check rules deploy/prometheus/alerts.yaml
    promtool test rules deploy/prometheus/alerts.test.yaml
else
    skipped 'deploy/prometheus, for want of promtool'
fi

# --- Kubernetes

# Has the schemas of Kubernetes with it.
validator=$tools/kubernetes/bin/kubernetes-validate
install_validator() {
    python3 -m venv "$tools/kubernetes" &&
        "$tools/kubernetes/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate==1.37.0
}

if [[ -x $validator ]] || install_validator; then
    "$validator" --strict deploy/kubernetes/yatagarasu.yaml
else
    skipped 'deploy/kubernetes, for want of kubernetes-validate (needs python3 with venv, and PyPI)'
fi
