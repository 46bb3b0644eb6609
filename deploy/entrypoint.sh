#!/bin/sh
# Container arguments in, the app in their place out. Without arguments, what POLICY_SERVER_POLICIES names is served,
# or else every policy under /policies by its folder's name; the first in the alphabet is then the default policy.
set -eu

if [ $# -eq 0 ]; then
    if [ -z "${POLICY_SERVER_POLICIES:-}" ]; then
        for graph in /policies/*/saved_model.pb; do
            if [ -f "$graph" ]; then
                set -- "$@" "${graph%/saved_model.pb}"
            fi
        done
        if [ $# -eq 0 ]; then
            echo "no policy in /policies: expected folders as PolicySaver writes them, with a saved_model.pb" >&2
            exit 1
        fi
    fi
    set -- serve "$@"
fi

# exec, so that the app and not a shell receives the signals.
exec python -m app "$@"
