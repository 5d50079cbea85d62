"""Install detectron2 into this environment, unless what ovdet uses of it can be imported already.

detectron2 has no distribution under its own name on the package index. `sal-detectron2` 0.7.2 carries the Python files
of facebookresearch/detectron2 a59f0563 (2024-04-17); its compiled part is for Python 3.10 only and nothing in ovdet
needs it (RoIAlign and NMS come from torchvision). Users with an official build keep theirs.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

DISTRIBUTION = "sal-detectron2==0.7.2"
SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"


USED = "from detectron2 import config, data, engine, evaluation, modeling, structures"


def import_error() -> str | None:
    """Why what ovdet uses of detectron2 cannot be imported; None if it can."""
    done = subprocess.run([sys.executable, "-c", USED], capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def pip_command(requirements: Path) -> list[str]:
    """The pip call: the wheel is tagged for CPython 3.10, its Python files run on any version since."""
    return [
        *(
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--upgrade",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
        ),
        *("--python-version", "3.10", "--implementation", "cp", "--abi", "none", "--platform", "any"),
        *("--target", sysconfig.get_path("purelib"), "--requirement", str(requirements)),
    ]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = importlib.util.find_spec("detectron2")
    error = import_error()
    if error is None:
        print(f"detectron2 is already importable and is left alone: {found.origin}")
        return
    if found is not None and found.origin is not None:
        sys.exit(f"error: expected a detectron2 that can be imported, {found.origin} fails with {error}")
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{DISTRIBUTION} --hash=sha256:{SHA256}\n", encoding="utf-8")
        code = subprocess.call(pip_command(requirements))
    if code:
        sys.exit(f"error: pip could not install {DISTRIBUTION} (exit code {code}); see its message above")
    if error := import_error():
        sys.exit(f"error: {DISTRIBUTION} is installed, but cannot be imported: {error}")
    print(f"installed {DISTRIBUTION} (detectron2 a59f0563)")


if __name__ == "__main__":
    main()
