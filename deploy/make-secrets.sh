#!/usr/bin/env bash
# Secrets for docker compose, random, into deploy/secrets (git-ignored). What is there stays.
set -euo pipefail
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
for name in streamer-token grafana-password; do
    if [[ ! -s secrets/$name ]]; then
        head -c 32 /dev/urandom | base64 | tr -d '/+=\n' >"secrets/$name"
        echo "made deploy/secrets/$name"
    fi
done
