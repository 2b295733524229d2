"""Which release of Tallyslice this is."""

from __future__ import annotations

import importlib.metadata


def release() -> str:
    """The version of the package; ``unknown`` where it runs from a folder that was never installed."""
    try:
        return importlib.metadata.version("tallyslice")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
