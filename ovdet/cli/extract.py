"""Embed the regions of a data set with the teacher into a region store for training.

ovdet extract --config-file lite/vild_text --weights output/lite/vild_text/model_final.pth
    --output regions --max-regions 32 dataset.root=PATH
ovdet verify regions
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from ovdet.cli.arguments import add_config_argument, add_overrides
from ovdet.errors import end_of_process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_config_argument(parser, "of detector, teacher and training set", required=True)
    add("--output", required=True, metavar="STORE", help="the folder to write")
    add("--dataset", default="", metavar="NAME", help="a registered data set (default: the config's training set)")
    add("--annotations", default="", metavar="X.json", help="or any COCO-format json, with --images")
    add("--images", default="", metavar="DIR", help="the folder of that json's images")
    add("--split", default="", metavar="S.json", help="base and novel classes of that json (default: all are base)")
    proposals = ("file", "ground-truth", "rpn")
    add("--proposals", default="rpn", choices=proposals, help="source of the boxes (default: rpn)")
    add("--weights", default="", metavar="W", help="of the detector whose RPN proposes (default: the config's last)")
    add("--proposal-file", default="", metavar="P.json", help="for file: a list of image_id, bbox (x, y, w, h), score")
    add("--proposal-classes", metavar="C", help='for file: names its source was trained on, or a file; "": none')
    add("--teacher", default="", metavar="T", help="a name as load_teacher takes it (default: the config's)")
    add("--max-regions", type=int, default=300, metavar="M", help="per image (default: 300)")
    per_shard = dict(type=int, default=64, metavar="P", dest="images_per_shard")
    add("--images-per-shard", "--photos-per-shard", **per_shard, help="lost at most by a crash (default: 64)")
    add("--resume", action="store_true", help="continue a store that was begun")
    add("--num-gpus", type=int, default=1, metavar="N", help="processes, each with a GPU if there are any (default: 1)")
    add("--engine", default="local", choices=("local", "ray"), help="ray: the cluster of $RAY_ADDRESS, else one here")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> int:
    from torch.multiprocessing import ProcessExitedException

    from ovdet.engine.config import load_config
    from ovdet.regions.extract import extract_regions
    from ovdet.regions.job import ExtractOptions
    from ovdet.text.vocabulary import parse_vocabulary

    given = vars(arguments)
    config = load_config(given.pop("config_file"), given.pop("overrides"))
    engine, classes, processes = given.pop("engine"), given.pop("proposal_classes"), given.pop("num_gpus")
    classes = parse_vocabulary(classes).names if classes else None if classes is None else ()
    repeat = shlex.join([*_program(), *sys.argv[1:]] + ["--resume"] * (not arguments.resume))
    options = ExtractOptions(**given, proposal_classes=classes, processes=processes, command=repeat)
    try:
        done = extract_regions(config, options, engine)
    except ProcessExitedException as error:
        return end_of_process(error)
    for image, error in done.unreadable:
        print(f"left out {image.image_id}: {error}", file=sys.stderr)
    print(f"{options.output}: regions of {done.num_images - len(done.unreadable)} images by teacher {done.teacher}")
    return 0


def _program() -> list[str]:
    """The words by which this program was called."""
    script = Path(sys.argv[0])
    return ["python", sys.argv[0]] if script.suffix == ".py" and script.name != "__main__.py" else ["ovdet"]
