"""Have this environment run the code of this checkout, and say so where it ran that of another.

`pip install -e` points an environment at one checkout. A second checkout that shares it would run the first one's code.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def installed_package() -> Path | None:
    """The folder of the installed package `ovdet`; None where there is none."""
    found = importlib.util.find_spec("ovdet")
    return None if found is None or found.origin is None else Path(found.origin).resolve().parent


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    installed = installed_package()
    if installed in (None, ROOT / "ovdet"):
        return
    print(f"{sys.prefix} ran the code of {installed.parent}, from now on that of {ROOT}", flush=True)
    sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "-e", str(ROOT)]))


if __name__ == "__main__":
    main()
