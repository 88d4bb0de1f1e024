#!/usr/bin/env bash
# Make random secrets for docker compose in deploy/secrets, which git ignores. Existing ones are kept.
# Only the owner can enter the folder (umask 077). The files in it are readable by all, because compose mounts them into
# containers with their permissions, and the containers run as other users.
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
