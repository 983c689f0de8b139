#!/bin/sh
# Make a virtual environment and install the project with its pinned dependencies.
set -eu
venv=${1:-.venv}

"${PYTHON:-python3}" -m venv "$venv"
sh scripts/install_torch.sh "$venv"
"$venv/bin/python" -m pip --disable-pip-version-check install -q -c constraints.txt -e '.[dev]'
"$venv/bin/python" -c 'import armorm'
