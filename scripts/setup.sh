#!/usr/bin/env bash
# Makes .venv with the pinned dependencies and the `crosskv` command; does nothing if it is current.
# PYTHON chooses the interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "$0")/.."

# current STAMP FILE...: whether what STAMP was made from is what the files hold now
current() { [ "$(cat ".venv/$1" 2>/dev/null)" = "$(cat "${@:2}" | sha256sum)" ]; }
# done_with STAMP FILE...: remember that
done_with() { cat "${@:2}" | sha256sum >".venv/$1"; }

install_project() {
    current .project pyproject.toml && return
    .venv/bin/python -m pip install --disable-pip-version-check --quiet \
        --no-deps --no-build-isolation --editable .
    done_with .project pyproject.toml
}

if current .dependencies requirements.lock scripts/setup.sh; then
    install_project
    exit 0
fi

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "CrossKV needs Python 3.11 or newer; '$python' is $("$python" -V 2>&1)." \
        "Install one and run: make PYTHON=/path/to/python3.11 ..." >&2
    exit 1
}
"$python" -c 'import ensurepip, venv' 2>/dev/null || { # Debian ships venv as a package of its own
    package=$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info.minor)')
    echo "Python's venv module is missing; installing $package"
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    $as_root apt-get update -qq && $as_root apt-get install -y -qq "$package" || {
        echo "Could not install it. Run: apt-get install $package" >&2
        exit 1
    }
}

echo "Installing the pinned dependencies into .venv (once; about a minute)"
"$python" -m venv --clear .venv
.venv/bin/python -m pip install --disable-pip-version-check --requirement requirements.lock 2>&1 |
    tee .venv/install.log |
    awk -v all="$(grep -c == requirements.lock)" '
        /^(Collecting|Processing) / { printf "\r  %d of %d packages fetched", ++n, all; fflush() }
        /^Installing / { printf "\n  unpacking them"; fflush() }
        END { print "" }' || {
    tail -n 20 .venv/install.log >&2
    echo "Installing failed; .venv/install.log has all of it." >&2
    exit 1
}
done_with .dependencies requirements.lock scripts/setup.sh
install_project
