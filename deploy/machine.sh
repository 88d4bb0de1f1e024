#!/usr/bin/env bash
# What the tests use of the machine: installed from Debian where it is missing and we are root, named otherwise.
# Usage: deploy/machine.sh [COMMAND...]; without commands, all of them. Never fails: a test says what it misses.
set -euo pipefail

declare -A packages=(
    [promtool]=prometheus [prometheus]=prometheus [kcat]=kcat [chromium]=chromium [curl]=curl
    [java]=default-jre-headless [mvn]=maven
)
missing=()
for command in "${@:-${!packages[@]}}"; do
    for one in $command; do
        command -v "$one" >/dev/null || missing+=("${packages[$one]}")
    done
done
[[ ${#missing[@]} -eq 0 ]] && exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    echo "Debian's ${missing[*]}, for the tests"
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1  # RUNLEVEL: no service is started
    if apt-get -qq update && apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null; then
        exit 0
    fi
fi
echo "Missing on this machine: ${missing[*]} (Debian's names). The tests that use them will say so and be skipped; install them to run all."
