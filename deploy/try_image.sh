#!/usr/bin/env bash
# Builds the image and tries it where no container engine runs: in goes the Dockerfile, out come an `ok` for each thing
# seen to work, and exit status 0 when all were.
#
#   apt-get install buildah debootstrap && deploy/try_image.sh        (as root; 10 GB of disk, about 5 minutes)
#
# What an engine would do is done by hand: read-only root, processes of its own (the server is process 1), no
# capabilities, a /tmp that nothing can be executed from. Not tried: the engine's own timing of health checks, its
# network and its limits.
#
# Environment: BASE       image to build on; without one, Debian bookworm with its own Python 3.11 is made
#              CA_BUNDLE  certificates to trust during the build, where a proxy has its own
#              PYTHON     Python with TF-Agents, which the image has not; it exports the policy. Without one, .venv/bin/python
#              KEEP       folder to work in and leave behind; without one, a temporary folder is used and removed
#              PIP_INDEX_URL, UV_DEFAULT_INDEX, STORAGE_DRIVER  as pip, uv and buildah know them
set -euo pipefail

PORT=18080
IMAGE=localhost/policy-server:try
project=$(cd "$(dirname "$0")/.." && pwd)
work=${KEEP:-$(mktemp -d)}
work=$(mkdir -p "$work" && cd "$work" && pwd)
server=

main() {
    [ "$(id -u)" = 0 ] || fail "this needs root, to mount and to change root"
    [ -x "$(cd "$project" && command -v "${PYTHON:-.venv/bin/python}")" ] || fail "no Python to export with: set PYTHON"
    for tool in buildah debootstrap unshare setpriv; do
        command -v "$tool" > /dev/null || fail "$tool is missing"
    done
    trap clean_up EXIT
    [ -n "${BASE:-}" ] || make_base
    try_build
    try_wrong_hash
    container=$(build_tool from "$IMAGE")
    root=$(build_tool mount "$container")
    show_image
    try_contents
    try_server
}

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

ok() {
    echo "ok  $*"
}

build_tool() {
    buildah --root "$work/storage" --runroot "$work/run" "$@"
}

clean_up() {
    # Both: changing its user has freed the server from ending with what started it.
    [ -z "$server" ] || kill -KILL "$(process_one)" "$server" 2> /dev/null || true
    build_tool rm --all > /dev/null 2>&1 || true
    [ -n "${KEEP:-}" ] || rm -rf "$work"
}

make_base() {
    BASE=localhost/python:bookworm
    if ! build_tool inspect --type image "$BASE" > /dev/null 2>&1; then
        debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
            bookworm "$work/base" > "$work/base.log" || fail "debootstrap: see $work/base.log"
        rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/var/lib/apt/lists/*
        local scratch
        scratch=$(build_tool from scratch)
        build_tool add -q "$scratch" "$work/base" / > /dev/null
        build_tool config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$scratch"
        build_tool commit -q --rm "$scratch" "$BASE" > /dev/null
        rm -rf "$work/base"
    fi
    ok "base: Debian bookworm with Python 3.11"
}

# The Docker format, because the OCI format has no HEALTHCHECK; --layers, because buildah else makes one of all.
build() {
    local arguments=(--isolation chroot --format docker --layers --build-arg "BASE=$BASE") name
    for name in PIP_INDEX_URL UV_DEFAULT_INDEX; do
        [ -z "${!name:-}" ] || arguments+=(--build-arg "$name=${!name}")
    done
    [ -z "${CA_BUNDLE:-}" ] || arguments+=(--volume "$CA_BUNDLE:/etc/ssl/certs/ca-certificates.crt:ro")
    build_tool bud "${arguments[@]}" "$@"
}

try_build() {
    build --tag "$IMAGE" "$project" > "$work/build.log" 2>&1 || fail "build: $(tail -n 5 "$work/build.log")"
    ok "built: every instruction of the Dockerfile"
}

# A check that was never seen to fail is none: one wrong digit in the lock has to stop the build.
try_wrong_hash() {
    local name
    for name in six setuptools; do
        rm -rf "$work/wrong" && mkdir "$work/wrong"
        cp "$project"/{Dockerfile,pyproject.toml} "$work/wrong/"
        sed "/^$name==/,/^[^ ]*==/ s/sha256:......../sha256:00000000/" "$project/requirements.lock" > "$work/wrong/requirements.lock"
        if build --target packages "$work/wrong" > "$work/wrong.log" 2>&1; then
            fail "a wrong hash of $name in the lock was not noticed"
        fi
        grep -qi "hash mismatch for .$name==" "$work/wrong.log" || fail "not the expected error: see $work/wrong.log"
    done
    ok "a wrong hash in the lock stops the build: of a package, and of what a package is built with"
}

show_image() {
    build_tool inspect --type image "$IMAGE" | python3 -c '
import json, sys
image = json.load(sys.stdin)
config = image["Docker"]["config"]
for name in ("User", "WorkingDir", "Entrypoint", "Cmd", "StopSignal", "ExposedPorts", "Healthcheck", "Env"):
    print("   ", name, json.dumps(config.get(name)))
sizes = [layer["size"] for layer in json.loads(image["Manifest"])["layers"]]
print("    layers in MB:", *(f"{size / 1e6:.2f}" for size in sizes), "together:", f"{sum(sizes) / 1e6:.0f}")
'
}

# The items of a list in the image's configuration, a line each.
configured() {
    build_tool inspect --format "{{range .Docker.Config.$1}}{{println .}}{{end}}" "$container" | grep .
}

inside() {
    build_tool run --isolation chroot "$container" -- "$@"
}

try_contents() {
    [ "$(inside id -u)" = 10001 ] || fail "the user is $(inside id)"
    inside python -c '
from importlib.metadata import distributions
for found in distributions():
    name = found.metadata["Name"].lower().replace("_", "-").replace(".", "-")
    print(name + "==" + found.version)
' | sort > "$work/installed.txt"
    grep -oE '^[a-z0-9-]+==[^ ]+' "$project/requirements.lock" | sort > "$work/locked.txt"
    local strange
    strange=$(comm -23 "$work/installed.txt" "$work/locked.txt")
    [ -z "$strange" ] || fail "not as locked: $strange"
    ok "$(wc -l < "$work/installed.txt") packages, all at the versions of the lock, of $(wc -l < "$work/locked.txt") in it"
    local name
    for name in pytest ruff mypy gymnasium matplotlib uv pip; do
        ! grep -q "^$name==" "$work/installed.txt" || fail "$name is in the image"
    done
    name=$(inside sh -c 'command -v gcc cc make uv; ls -d /build /opt/uv; find / -xdev -name .cache' 2> /dev/null) || true
    [ -z "$name" ] || fail "$name is in the image"
    ok "no build tool, installer, cache, demo or development package"
    name=$(inside sh -c 'find / -xdev -writable -type f -not -path "/proc/*"' 2> /dev/null) || true
    [ -z "$name" ] || fail "the user may write to $name"
    ok "user 10001, who may change no file of the image"
}

# The entry point of the image, as an engine with the settings of docker-compose.yml would start it.
start() {
    local environment entry
    mapfile -t environment <<< "$(configured Env)"
    mapfile -t entry <<< "$(configured Entrypoint)"
    # shellcheck disable=SC2016
    exec unshare --mount --pid --fork sh -euc '
        root=$1 policies=$2
        shift 2
        mount --bind "$root" "$root"
        mount -o remount,bind,ro "$root"
        mount -t proc proc "$root/proc"
        mount -t tmpfs -o nosuid,nodev,noexec,mode=1777 tmpfs "$root/tmp"
        mount --bind /dev "$root/dev"
        mount --bind "$policies" "$root/policies"
        mount -o remount,bind,ro "$root/policies"
        exec chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs \
            --inh-caps=-all --bounding-set=-all env -i --chdir=/srv/policy-server "$@"
    ' start "$root" "$work/policies" "${environment[@]}" POLICY_SERVER_PORT=$PORT "${entry[@]}"
}

wait_for_health() {
    local deadline=$((SECONDS + 150))
    while [ $SECONDS -lt $deadline ]; do
        if health > "$work/health.log"; then
            return
        fi
        kill -0 "$server" 2> /dev/null || fail "the server ended: $(tail -n 5 "$work/server.log")"
        sleep 1
    done
    fail "not ready after 150 s: $(cat "$work/health.log")"
}

wait_for_version() {
    local deadline=$((SECONDS + 30))
    until ask /action '{"observation": [0.1, 0, 0, 0]}' | grep -q "\"version\":\"$1\""; do
        [ $SECONDS -lt $deadline ] || fail "after 30 s, version $1 does not serve"
        sleep 0.5
    done
}

# The health check of the image, word for word.
health() {
    local check
    mapfile -t check <<< "$(configured Healthcheck.Test)"
    build_tool run --isolation chroot --env POLICY_SERVER_PORT=$PORT "$container" -- "${check[@]:1}" 2> /dev/null
}

export_policy() {
    (cd "$project" && TF_USE_LEGACY_KERAS=1 "${PYTHON:-.venv/bin/python}" -c '
import sys
import tensorflow as tf
from tf_agents.networks import q_network
from tf_agents.policies import q_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step
from saver import PolicySaver

observation = tensor_spec.BoundedTensorSpec([4], tf.float32, -5, 5, "observation")
action = tensor_spec.BoundedTensorSpec([], tf.int64, 0, 1, "action")
network = q_network.QNetwork(observation, action, fc_layer_params=(16,))
policy = q_policy.QPolicy(time_step.time_step_spec(observation), action, network)
step = tf.Variable(0, dtype=tf.int64)
saver = PolicySaver(policy, train_step=step)
policies = sys.argv[1]
saver.save(f"{policies}/cartpole")
for folder, number in ((f"{policies}/cartpole/checkpoints/0000000700", 700), (f"{policies}/next", 800)):
    step.assign(number)
    saver.save_checkpoint(folder)
' "$work/policies") > "$work/export.log" 2>&1 || fail "export: $(tail -n 5 "$work/export.log")"
}

ask() {
    inside python -c '
import sys, urllib.request
path, body = sys.argv[2:]
request = urllib.request.Request(f"http://127.0.0.1:{sys.argv[1]}{path}", body.encode() or None)
print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20).read().decode())
' $PORT "$@"
}

try_server() {
    rm -rf "$work/policies" && mkdir "$work/policies"
    ! health > "$work/health.log" || fail "something else answers on port $PORT"
    ok "health check without a server: $(cat "$work/health.log")"
    local status=0
    (start) > "$work/server.log" 2>&1 || status=$?
    [ "$status" = 1 ] || fail "without a policy: exit status $status"
    ok "without a policy: exit status 1, $(tail -n 1 "$work/server.log")"

    export_policy
    start > "$work/server.log" 2>&1 &
    server=$!
    wait_for_health
    ok "ready as process 1, read-only, without capabilities; health check: $(cat "$work/health.log")"
    ok "action: $(ask /action '{"observation": [0.1, 0, 0, 0]}')"
    mv "$work/policies/next" "$work/policies/cartpole/checkpoints/0000000800"
    wait_for_version 0000000800
    ok "a checkpoint published outside the container is swapped in"
    ok "memory in MB of each process: $(memory)"

    local start=$EPOCHREALTIME
    status=0
    kill -TERM "$(process_one)"
    wait "$server" || status=$?
    server=
    [ "$status" = 0 ] || fail "SIGTERM: exit status $status: $(tail -n 5 "$work/server.log")"
    ok "SIGTERM: exit status 0 after $(python3 -c "print(f'{$EPOCHREALTIME - $start:.2f}')") s"
}

# The server, as processes outside the container know it: the only child of what started it.
process_one() {
    pgrep --parent "$server"
}

# Of all the server's processes, each page that they share counted once.
memory() {
    local process
    for process in $(process_one) $(pgrep --parent "$(process_one)"); do
        awk '/^Pss:/ {print int($2 / 1000)}' "/proc/$process/smaps_rollup"
    done | paste -sd ' '
}

main "$@"
