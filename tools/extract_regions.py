"""Embed the regions of a data set with the teacher into a region store for training; or verify such a store.

tools/extract_regions.py --config-file configs/lite/vild_text.py --weights output/lite/vild_text/model_final.pth
    --output regions --max-regions 32 dataset.root=PATH
tools/extract_regions.py verify regions --sample 32     (exit code 1 where something is wrong)
"""

from __future__ import annotations

import argparse
import shlex
import sys

from torch.multiprocessing import ProcessExitedException

from ovdet.engine.config import load_config
from ovdet.errors import command
from ovdet.regions.extract import ENGINES, extract_regions
from ovdet.regions.job import PROPOSALS, ExtractOptions
from ovdet.regions.verify import verify_store
from ovdet.text.vocabulary import parse_vocabulary


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", required=True, metavar="F", help="config of detector, teacher and training set")
    add("--output", required=True, metavar="STORE", help="the folder to write")
    add("--dataset", default="", metavar="NAME", help="a registered data set (default: the config's training set)")
    add("--annotations", default="", metavar="X.json", help="or any COCO-format json, with --images")
    add("--images", default="", metavar="DIR", help="the folder of that json's images")
    add("--split", default="", metavar="S.json", help="base and novel classes of that json (default: all are base)")
    add("--proposals", default="rpn", choices=PROPOSALS, help="source of the boxes (default: rpn)")
    add("--weights", default="", metavar="W", help="of the detector whose RPN proposes (default: the config's last)")
    add("--proposal-file", default="", metavar="P.json", help="for file: a list of image_id, bbox (x, y, w, h), score")
    add("--proposal-classes", metavar="C", help='for file: names its source was trained on, or a file; "": none')
    add("--teacher", default="", metavar="T", help="a name as load_teacher takes it (default: the config's)")
    add("--max-regions", type=int, default=300, metavar="M", help="per image (default: 300)")
    per_shard = dict(type=int, default=64, metavar="P", dest="images_per_shard")
    add("--images-per-shard", "--photos-per-shard", **per_shard, help="lost at most by a crash (default: 64)")
    add("--resume", action="store_true", help="continue a store that was begun")
    add("--num-gpus", type=int, default=1, metavar="N", help="processes, each with a GPU if there are any (default: 1)")
    add("--engine", default="local", choices=sorted(ENGINES), help="ray: the cluster of $RAY_ADDRESS, else one here")
    add("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args()


def extract(arguments: argparse.Namespace) -> int:
    given = vars(arguments)
    config = load_config(given.pop("config_file"), given.pop("overrides"))
    engine, classes, processes = given.pop("engine"), given.pop("proposal_classes"), given.pop("num_gpus")
    classes = parse_vocabulary(classes).names if classes else None if classes is None else ()
    repeat = shlex.join(["python", *sys.argv] + ["--resume"] * (not arguments.resume))
    options = ExtractOptions(**given, proposal_classes=classes, processes=processes, command=repeat)
    try:
        done = extract_regions(config, options, engine)
    except ProcessExitedException as error:  # the process has said why
        return error.exit_code
    for image, error in done.unreadable:
        print(f"left out {image.image_id}: {error}", file=sys.stderr)
    print(f"{options.output}: regions of {done.num_images - len(done.unreadable)} images by teacher {done.teacher}")
    return 0


def verify(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="extract_regions.py verify", description="Check a region store.")
    parser.add_argument("folder", metavar="STORE", help="the folder")
    parser.add_argument("--sample", type=int, default=32, metavar="N", help="images to embed again (default: 32)")
    parser.add_argument("--images", metavar="DIR", help="folder of the images (default: the store's)")
    parser.add_argument("--device", default="auto", help="for the teacher (default: a GPU if there is one)")
    found = verify_store(**vars(parser.parse_args(words)))
    print(found.summary, *found.problems, sep="\n")
    return 1 if found.problems else 0


@command
def main() -> None:
    sys.exit(verify(sys.argv[2:]) if sys.argv[1:2] == ["verify"] else extract(parse_arguments()))


if __name__ == "__main__":
    main()
