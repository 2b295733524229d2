"""Tallyslice as others get it: a wheel made from the sdist, installed where there is nothing but what the lock names.

The environment's packages are copied out of the one that the tests run in, which was made of hash-checked locks; so
this needs no network, and what only developers have is not there.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distribution
from pathlib import Path

from tests.support.pages import ROOT

_PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)(?: ; (.+?))?(?: \\)?$", re.MULTILINE)


def build(target: str, folder: Path, *, source: Path = ROOT) -> Path:
    """Build a wheel or an sdist of a tree into a folder; its path."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (found,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return found


def wheel_of(sdist: Path, folder: Path) -> Path:
    """The wheel that pip makes of an sdist, with the hatchling that is here."""
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(sdist))
    (found,) = folder.glob("*.whl")
    return found


def install(wheel: Path, folder: Path) -> Path:
    """Install a wheel into a new environment with the packages of the runtime lock; the folder of its programs."""
    venv.create(folder, with_pip=False, symlinks=True)
    programs = folder / "bin"
    library = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for name in locked():
        _copy(name, library)
    at = ("--python", str(programs / "python"))
    _pip(*at, "install", "--no-deps", "--no-index", str(wheel))
    _pip(*at, "check")
    return programs


def locked() -> list[str]:
    """The packages of the runtime lock that this Python needs."""
    lock = (ROOT / "requirements/runtime.lock").read_text()
    found = []
    for name, version, marker in _PIN.findall(lock):
        if marker and not _holds(marker):
            continue
        assert distribution(name).version == version, f"{name} is not of the lock's version: run scripts/setup"
        found.append(name)
    return found


def _holds(marker: str) -> bool:
    from packaging.markers import Marker  # noqa: PLC0415 - pytest brings it along

    return Marker(marker).evaluate()


def _copy(name: str, library: Path) -> None:
    one = distribution(name)
    for file in one.files or ():
        # Programs (../../bin/...) name the other environment, and nobody calls them here.
        if ".." not in file.parts and file.suffix != ".pyc":
            target = library / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file.locate()), target)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    run = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
