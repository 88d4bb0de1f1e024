#!/usr/bin/env bash
# Secrets for docker compose, random, into deploy/secrets (git-ignored). What is there stays.
# The folder is ours alone (umask 077); a file in it is readable, because compose shows it to a container as it is,
# and the containers run as users of their own.
set -euo pipefail
umask 077
folder="${1:-$(dirname "$0")/secrets}"
mkdir -p "$folder"
chmod 700 "$folder"
for name in streamer-token grafana-password; do
    if [[ ! -s "$folder/$name" ]]; then
        head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n' >"$folder/$name"
        chmod 444 "$folder/$name"
        echo "made $folder/$name"
    fi
done
