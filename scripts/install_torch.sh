#!/bin/sh
# Install the pinned torch into a virtual environment: sh scripts/install_torch.sh VENV
#
# Where there is no NVIDIA GPU its CPU build saves several GB. Package indexes that carry the CPU
# build are tried in turn; the last resort is whatever `pip install torch` gives.
set -eu
venv=$1
torch=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' "$(dirname "$0")/../constraints.txt")

install() { "$venv/bin/python" -m pip --disable-pip-version-check install -q "$@"; }
has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; }

if has_gpu || [ "$(uname)" = Darwin ]; then
    install "torch==$torch"
else
    install "torch==$torch+cpu" 2>/dev/null ||
        install --retries 1 --timeout 15 "torch==$torch+cpu" \
            --extra-index-url https://download.pytorch.org/whl/cpu 2>/dev/null ||
        install "torch==$torch"
fi
