#!/usr/bin/env bash
# Regenerates the Python beside the .proto files. With --check: fails if what is committed is stale.
set -euo pipefail
cd "$(dirname "$0")/.."
out=protos
[ "${1:-}" = --check ] && out=$(mktemp -d) && trap 'rm -rf "$out"' EXIT
.venv/bin/python -m grpc_tools.protoc -I protos \
    --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" protos/crosskv/v1/*.proto
[ "$out" = protos ] && exit 0
for generated in "$out"/crosskv/v1/*; do
    cmp -s "$generated" "protos/crosskv/v1/$(basename "$generated")" || {
        echo "protos/crosskv/v1/$(basename "$generated") is stale: run 'make protos'" >&2
        exit 1
    }
done
