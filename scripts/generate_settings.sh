#!/usr/bin/env bash
# Regenerates docs/settings.md from the settings classes. With --check: fails if it is stale.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --check ]; then
    .venv/bin/crosskv settings | cmp -s - docs/settings.md || {
        echo "docs/settings.md is stale: run 'make settings'" >&2
        exit 1
    }
else
    .venv/bin/crosskv settings >docs/settings.md
fi
