"""Check what the wheel and the source distribution hold: python scripts/check_distributions.py DIST

The wheel must hold every file of the package and its licences, and nothing else; the source
distribution what building and testing need, and nothing else.
"""

from __future__ import annotations

import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GENERATED = {".gitignore", "PKG-INFO", "pyproject.toml"}
"""Files that the build adds to the source distribution, or always takes."""
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt"}


def files_of(folder: Path, base: Path) -> set[str]:
    """Return the files of a folder, links followed; what Python leaves behind is no part of it."""
    found: set[str] = set()
    for path in folder.iterdir():
        if path.name == "__pycache__" or path.suffix == ".pyc" or path.name.startswith("."):
            continue
        found |= files_of(path, base) if path.is_dir() else {path.relative_to(base).as_posix()}
    return found


def wheel_files() -> set[str]:
    """Return the files that the wheel must hold."""
    project = PROJECT["project"]
    information = f"{project['name']}-{project['version']}.dist-info"
    licences = {f"licenses/{name}" for name in project["license-files"]}
    package = files_of(ROOT / "src" / "armorm", ROOT / "src")
    return package | {f"{information}/{name}" for name in METADATA | licences}


def source_files() -> set[str]:
    """Return the files that the source distribution must hold."""
    project, included = PROJECT["project"], PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]
    found = set(GENERATED)
    for name in included["only-include"]:
        path = ROOT / name
        found |= files_of(path, ROOT) if path.is_dir() else {name}
    return {f"{project['name']}-{project['version']}/{name}" for name in found}


def check(archive: Path, found: Iterable[str], expected: set[str]) -> None:
    """Exit with a message unless an archive holds exactly the expected files."""
    names = set(found)
    lines = [f"  missing: {name}" for name in sorted(expected - names)]
    lines += [f"  stray:   {name}" for name in sorted(names - expected)]
    if lines:
        sys.exit("\n".join([f"{archive}:", *lines]))
    print(f"{archive}: {len(names)} files, {archive.stat().st_size / 1e6:.1f} MB")


def main(folder: Path) -> None:
    """Check the two archives of a folder."""
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        check(wheel, opened.namelist(), wheel_files())
    with tarfile.open(source) as packed:
        check(source, packed.getnames(), source_files())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
