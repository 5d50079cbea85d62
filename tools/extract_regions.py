"""`ovdet extract` by its name of old; `extract_regions.py verify` is `ovdet verify`."""

import sys

from ovdet.cli.main import run_tool

if __name__ == "__main__":
    verify = sys.argv[1:2] == ["verify"]
    del sys.argv[1 : 1 + verify]
    run_tool("verify" if verify else "extract")
