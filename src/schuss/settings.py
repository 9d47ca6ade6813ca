"""The environment variables that this package reads, all of them.

| variable         | meaning                                                 | default             |
|------------------|---------------------------------------------------------|---------------------|
| SCHUSS_DATA      | folder in which downloaded data sets are kept           | ~/.cache/schuss/data|
"""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """Where downloaded data sets are kept."""
    named = os.environ.get("SCHUSS_DATA")
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "schuss" / "data"
