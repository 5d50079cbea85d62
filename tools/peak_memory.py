"""Measure the peak memory of large jobs, each in a process of its own, beside a limit; exit code 1 above one.

tools/peak_memory.py
tools/peak_memory.py names photo --names 1000000 --megapixels 100
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ovdet.errors import InputError, command

MIB = 2**20


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("cases", nargs="*", metavar="CASE", help=f"out of {', '.join(CASES)} (default: all)")
    add("--photos", type=int, default=200, metavar="N", help="of the folder, 12 megapixels each (default: 200)")
    add("--megapixels", type=int, default=100, metavar="N", help="of the large photo (default: 100)")
    add("--names", type=int, default=1_000_000, metavar="N", help="of the vocabulary (default: 1,000,000)")
    add("--images", type=int, default=19_809, metavar="N", help="of LVIS, 300 detections each (default: 19,809)")
    add("--only", choices=CASES, help=argparse.SUPPRESS)  # in this process
    return parser.parse_args()


def write_photo(folder: Path, megapixels: int) -> Path:
    """A JPEG of smooth noise, 4 : 3."""
    import numpy as np
    from PIL import Image

    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8))
    coarse.resize((height * 4 // 3, height), Image.BILINEAR).save(folder / "photo.jpg", quality=90)
    return folder / "photo.jpg"


def detect_on(photos: list[Path]) -> None:
    """`predictor.stream` on files."""
    from ovdet import OpenVocabPredictor

    predictor = OpenVocabPredictor.from_pretrained("ovdet-lite", device="cpu")
    assert len(list(predictor.stream(photos, ["person", "dog"]))) == len(photos)


def start(arguments: argparse.Namespace, folder: Path) -> None:
    """One ordinary photo."""
    detect_on([write_photo(folder, 1)])


def many_photos(arguments: argparse.Namespace, folder: Path) -> None:
    """A folder of photos of 12 megapixels."""
    detect_on([write_photo(folder, 12)] * arguments.photos)


def large_photo(arguments: argparse.Namespace, folder: Path) -> None:
    """One large photo; a process before has written it."""
    detect_on([folder / "large.jpg"])


def many_names(arguments: argparse.Namespace, folder: Path) -> None:
    """A vocabulary as a file in half precision, which is mapped; a process before has written it."""
    from ovdet import OpenVocabPredictor, load_embeddings

    predictor = OpenVocabPredictor.from_pretrained("ovdet-lite", device="cpu")
    predictor(write_photo(folder, 1), load_embeddings(folder / "names.safetensors"), negatives=())


def lvis(arguments: argparse.Namespace, folder: Path) -> None:
    """LVIS's figures of 300 detections an image, 1,203 classes; a process before has written the json."""
    import torch
    from detectron2.structures import Boxes, Instances

    from ovdet.benchmarks.random_inputs import random_boxes
    from ovdet.data.catalog import LVIS_EVALUATOR_TYPE
    from ovdet.data.dataset import register_coco_subsets
    from ovdet.evaluation.evaluator import build_evaluator

    given = dict(json_file=str(folder / "lvis.json"), image_root=str(folder), evaluator_type=LVIS_EVALUATOR_TYPE)
    register_coco_subsets(name="lvis", **given, filter_empty=False)
    evaluator, generator = build_evaluator("lvis", folder / "out", ("bbox",)), torch.Generator().manual_seed(0)
    evaluator.reset()
    for image_id in range(1, arguments.images + 1):
        found = Instances((480, 640))
        found.pred_boxes = Boxes(random_boxes(300, 480, 640, generator))
        found.scores = torch.rand(300, generator=generator)
        found.pred_classes = torch.randint(1203, (300,), generator=generator)
        evaluator.process([{"image_id": image_id}], [{"instances": found}])
    evaluator.evaluate()


def write_inputs(case: str, arguments: argparse.Namespace, folder: Path) -> None:
    """Large inputs that are read from files: writing them is no part of what is measured."""
    if case == "photo":
        write_photo(folder, arguments.megapixels).rename(folder / "large.jpg")
    elif case == "names":
        import torch
        import torch.nn.functional as F

        from ovdet import TextEmbeddings, load_teacher

        rows = [F.normalize(torch.randn(10_000, 384), dim=1).half() for _ in range(-(-arguments.names // 10_000))]
        names = tuple(f"name {k}" for k in range(arguments.names))
        matrix = torch.cat(rows)[: arguments.names]
        fingerprint = load_teacher("conse").fingerprint
        TextEmbeddings(matrix, names, ("a {}",), "conse", fingerprint).save(folder / "names.safetensors")
    elif case == "lvis":
        import json

        from ovdet.benchmarks.evaluation import draw_boxes

        content, _ = draw_boxes(arguments.images, 1203)
        for image in content["images"]:
            image.update(neg_category_ids=[1, 2, 3], not_exhaustive_category_ids=[])
            (folder / image["file_name"]).touch()  # looked for, not read
        for category in content["categories"]:
            category["frequency"] = "rcf"[category["id"] % 3]
        (folder / "lvis.json").write_text(json.dumps(content))


CASES = {  # what is done, and its limit in MiB beside that of `start`
    "start": (start, lambda arguments: 1300),
    "folder": (many_photos, lambda arguments: 500),
    "photo": (large_photo, lambda arguments: 200 + 9.5e6 * arguments.megapixels / MIB),
    "names": (many_names, lambda arguments: 300 + 2 * 768 * arguments.names / MIB),
    "lvis": (lvis, lambda arguments: 600 + 150 * 300 * arguments.images / MIB),
}


def peak(case: str, folder: Path) -> float:
    """MiB that a process of its own needed at most."""
    process = subprocess.Popen([sys.executable, __file__, "--only", case, *sys.argv[1:]], cwd=folder)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"expected {case} to be done, its process ended with {process.returncode}")
    return used.ru_maxrss / 1024


@command
def main() -> None:
    arguments = parse_arguments()
    if arguments.only:
        CASES[arguments.only][0](arguments, Path.cwd())
        return
    if odd := sorted(set(arguments.cases) - set(CASES)):
        raise InputError(f"expected cases out of {', '.join(CASES)}, got {odd[0]!r}")
    if min(arguments.photos, arguments.megapixels, arguments.names, arguments.images) < 1:
        raise InputError("expected numbers of at least 1")
    is_above = False
    base = CASES["start"][1](arguments)
    for case in arguments.cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            write_inputs(case, arguments, Path(folder))
            used = peak(case, Path(folder))
        limit = base if case == "start" else base + CASES[case][1](arguments)
        is_above |= used > limit
        print(f"{case} {used:,.0f} MiB, limit {limit:,.0f} MiB", flush=True)
    sys.exit(int(is_above))


if __name__ == "__main__":
    main()
