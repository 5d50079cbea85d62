"""Put together the folder of a Hugging Face Space: the page, the package, and the versions that were tested.

tools/make_space.py --output output/space
hf upload OWNER/NAME output/space --type space
"""

from __future__ import annotations

import argparse
import runpy
import shutil
from pathlib import Path

import setuptools

from ovdet.errors import InputError, command
from ovdet.files import require_path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = "constraints.txt"  # of all packages, those that others bring too
EXTRAS = ("web",)
SAMPLES = "scikit-image"  # photos to begin with


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder that is not there yet")
    output = Path(require_path(parser.parse_args().output))
    if output.exists():
        raise InputError(f"expected --output to be a folder that is not there yet, got {output}")
    shutil.copytree(ROOT / "tools/space", output)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ovdet", output / "ovdet", ignore=ignored)
    shutil.copytree(ROOT / "configs", output / "ovdet/configs", ignore=ignored)  # where the wheel has them
    shutil.copyfile(ROOT / ".constraints.txt", output / CONSTRAINTS)
    (output / "requirements.txt").write_text("\n".join([f"-c {CONSTRAINTS}", *requirements()]) + "\n", encoding="utf-8")
    print(f"{output}: {sum(file.stat().st_size for file in output.rglob('*')) / 2**20:.0f} MiB")


def requirements() -> list[str]:
    """The requirements of setup.py and of the page."""
    given: dict = {}
    setuptools.setup, setup = lambda **options: given.update(options), setuptools.setup
    try:
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = setup
    return [*given["install_requires"], *(each for extra in EXTRAS for each in given["extras_require"][extra]), SAMPLES]


if __name__ == "__main__":
    main()
