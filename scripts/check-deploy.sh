#!/usr/bin/env bash
# Checks the files below deploy/ with the programs that read them: the systemd units, the alerts and their
# tests, the manifest for Kubernetes. It starts nothing. If a program cannot be installed, its name is
# printed and its files are not checked. `make test` checks the playbook and the configurations.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools
mkdir -p "$tools"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

skipped() { printf 'not checked: %s\n' "$*"; }

# --- systemd

# Prints the complaints of systemd. Its exit code does not count lines that it could not parse.
complaints() { systemd-analyze verify "$1" 2>&1 || true; }

fail() {
    printf 'check-deploy: %s\n' "$*" >&2
    exit 1
}

# Verifies the unit alone, and with the drop-in if this systemd knows its type.
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
    # An older systemd complains about the new type. That shows that it has read the drop-in, and must be
    # its only complaint.
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

# Takes promtool out of Debian's package without installing the package, which would start a server.
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

# kubernetes-validate brings the schemas of Kubernetes.
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
