"""`ovdet teacher zero-shot` by its name of old."""

import sys

from ovdet.cli.main import run_tool

if __name__ == "__main__":
    sys.argv.insert(1, "zero-shot")
    run_tool("teacher")
