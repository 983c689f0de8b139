#!/bin/sh
# Test the wheel in dist/ as a user has it: alone, in a clean environment, away from the checkout.
set -eu
constraints=$PWD/constraints.txt
wheel=$(ls "$PWD"/dist/*.whl)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/venv"
sh scripts/install_torch.sh "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q -c "$constraints" "$wheel"

cd "$work"
unset PYTHONPATH
PATH="$work/venv/bin:$PATH"
export PATH HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
python -c '
import sys, armorm
assert armorm.__file__.startswith(sys.prefix), armorm.__file__
assert "torch" not in sys.modules
'
python -m pip check
armorm --version
armorm data list >data.txt
armorm train quickstart -o run -q --set data.rated.0.limit=1500 \
    --set data.preferences.0.limit=800 --set gate.steps=200 >train.txt
tail -n 2 train.txt
armorm explain run/model --prompt "What is 3 plus 4?" --response "3 plus 4 is 7."
