#!/bin/sh
# Container arguments in, the app in their place out. Without arguments, what POLICY_SERVER_POLICIES names is served,
# or else every policy under /policies by its folder's name; the first in the alphabet is then the default policy.
# What cannot be read is passed on too: the server says what is wrong with it, serves the others, and tries it
# again when it changes. What is no policy at all is named and left out.
set -eu

named() {
    case "${1##*/}" in
        [!A-Za-z0-9]* | *[!A-Za-z0-9._-]*)
            echo "$1 is left out: its name cannot be a policy's" >&2
            return 1
            ;;
    esac
}

if [ $# -eq 0 ]; then
    if [ -z "${POLICY_SERVER_POLICIES:-}" ]; then
        for graph in /policies/*/saved_model.pb; do
            if [ -f "$graph" ] && named "${graph%/saved_model.pb}"; then
                set -- "$@" "${graph%/saved_model.pb}"
            fi
        done
        # After the others, so that none of them becomes the default policy.
        for folder in /policies/*; do
            if [ -f "$folder/saved_model.pb" ] || [ "$folder" = "/policies/*" ] || ! named "$folder"; then
                continue
            elif [ -L "$folder" ] && [ ! -e "$folder" ]; then
                set -- "$@" "$folder"
            elif [ ! -d "$folder" ]; then
                echo "$folder is left out: it is no folder" >&2
            elif [ ! -r "$folder" ] || [ ! -x "$folder" ]; then
                set -- "$@" "$folder"
            else
                echo "$folder is left out: no saved_model.pb is in it" >&2
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
