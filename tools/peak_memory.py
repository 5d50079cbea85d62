"""Measure the peak memory of large jobs, each in a process of its own, beside a limit; exit code 1 above one.

tools/peak_memory.py
tools/peak_memory.py names photo --names 1000000 --megapixels 100
"""

from __future__ import annotations

import argparse
import sys

from ovdet.benchmarks.memory import add_arguments, peaks
from ovdet.errors import command


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    is_above = False
    for found in peaks(parser.parse_args()):
        print(f"{found.case}: {found.peak_mib:,.0f} MiB, limit {found.limit_mib:,.0f} MiB", flush=True)
        is_above |= found.peak_mib > found.limit_mib
    sys.exit(int(is_above))


if __name__ == "__main__":
    main()
