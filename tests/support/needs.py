"""What a test needs of the machine beside Python: a program of a Debian package, or root.

Where it is missing the test is skipped, and the end of the run names it (tests/conftest.py); in CI, which installs all
of it, it fails.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"  # where Debian has servers, which a user's PATH leaves out


def program(name: str, *, package: str) -> str:
    """The path of a program.

    Args:
        name: of the program.
        package: Debian's package that has it.
    """
    found = shutil.which(name) or shutil.which(name, path=_SYSTEM_FOLDERS)
    return found or missing(f"needs {name}: apt-get install {package}")


def missing(reason: str) -> NoReturn:
    """Skip the running test, for what the machine lacks; in CI, fail it."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have it: {reason}", pytrace=False)
    pytest.skip(reason)
