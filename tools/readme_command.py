"""Print one of the two set-up commands of the README: `python tools/readme_command.py run|test`.

The commands stand in the README's first two `sh` blocks. Reading them from there means that what is
documented is what is run.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def commands(text: str) -> dict[str, str]:
    """The README's set-up commands by name."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return {"run": blocks[0].strip(), "test": blocks[1].strip()}


if __name__ == "__main__":
    readme = Path(__file__).resolve().parent.parent / "README.md"
    print(commands(readme.read_text(encoding="utf-8"))[sys.argv[1]])
