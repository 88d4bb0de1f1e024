#!/usr/bin/env bash
# Install the programs that the tests use, from Debian's packages; without root, only name the missing ones.
# Usage: deploy/machine.sh [COMMAND...]; without commands, all of them. It never fails: a test says which program it lacks.
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
    echo "installing Debian's ${missing[*]}, for the tests"
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1  # RUNLEVEL: no service is started
    if apt-get -qq update && apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null; then
        exit 0
    fi
fi
echo "Missing on this machine: ${missing[*]} (Debian's package names). Tests that need them are skipped with a message; install them to run all tests."
