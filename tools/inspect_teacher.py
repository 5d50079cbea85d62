"""Classify the annotated objects of a data set with a teacher, to choose one before training.

tools/inspect_teacher.py conse --annotations instances_val.json --images images --split ov_coco_split.json
"""

from __future__ import annotations

import argparse
import contextlib
import json

from teacher_accuracy import inspect_teacher, print_reports

from ovdet.device import choose_device
from ovdet.errors import command
from ovdet.files import atomic_writer
from ovdet.teachers.registry import load_teacher


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("teacher", metavar="T", help="conse, open_clip:ARCH/TAG, hf:REPO, ... (see docs/teachers.md)")
    parser.add_argument(
        "--annotations", required=True, metavar="X.json", help="COCO-format json whose boxes are classified"
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="the folder of its images")
    parser.add_argument("--split", metavar="S.json", help="base and novel classes (default: all are base)")
    parser.add_argument("--templates", default="a", help="a, photo, vild, clip, or a template (default: a)")
    parser.add_argument(
        "--max-objects", type=int, metavar="N", help="classify a random sample of N objects (default: all)"
    )
    parser.add_argument("--device", default="auto", help="device of the teacher (default: a GPU, else the CPU)")
    parser.add_argument("--output", metavar="F.json", help="write the results there too")
    return parser.parse_args()


@command
def main() -> None:
    arguments = parse_arguments()
    teacher = load_teacher(arguments.teacher, choose_device(arguments.device))
    with atomic_writer(arguments.output) if arguments.output else contextlib.nullcontext() as stream:
        reports = inspect_teacher(
            teacher,
            arguments.annotations,
            arguments.images,
            split=arguments.split,
            templates=arguments.templates,
            max_objects=arguments.max_objects,
        )
        if stream:
            stream.write((json.dumps([report.as_dict() for report in reports], indent=1) + "\n").encode())
    print_reports(reports)


if __name__ == "__main__":
    main()
