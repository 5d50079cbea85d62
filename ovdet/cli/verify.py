"""Check a region store; exit code 1 where something is wrong.

ovdet verify regions --sample 32
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", metavar="STORE", help="the folder that `ovdet extract` wrote")
    add("--sample", type=int, default=32, metavar="N", help="images to embed again (default: 32)")
    add("--images", metavar="DIR", help="folder of the images (default: the store's)")
    add("--device", default="auto", help="for the teacher (default: a GPU if there is one)")


def run(arguments: argparse.Namespace) -> int:
    from ovdet.regions.verify import verify_store

    found = verify_store(**vars(arguments))
    print(found.summary, *found.problems, sep="\n")
    return 1 if found.problems else 0
