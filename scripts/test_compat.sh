#!/bin/sh
# Check exported folders on another transformers, in an environment of its own.
#   sh scripts/test_compat.sh [VERSION]      default: the oldest that exports support
set -eu
version=${1:-4.51.0}
venv=.venv-compat-$version
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    sh scripts/install_torch.sh "$venv"
    # transformers 4.51.0 itself cannot load any model without accelerate.
    "$venv/bin/pip" install -q "transformers==$version" "accelerate<1.7" "numpy<2.3"
fi
.venv/bin/python scripts/compat_export.py make "$work"
HF_HUB_OFFLINE=1 HF_MODULES_CACHE="$work/modules" \
    "$venv/bin/python" scripts/compat_export.py check "$work"
