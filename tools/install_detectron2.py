"""Install detectron2 into this environment, unless what ovdet uses of it can be imported already.

`ovdet doctor --fix` does the same; this script runs before ovdet is installed, too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ovdet.errors import InputError  # noqa: E402
from ovdet.install import install_detectron2  # noqa: E402


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    try:
        print(install_detectron2())
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
