"""Teacher embeddings of a data set's regions, once, for configs that read a region store.

tools/extract_regions.py --config-file configs/lite/vild_text.py --weights output/lite/vild_text/model_final.pth
    --output regions --max-regions 32 dataset.root=PATH
"""

from __future__ import annotations

import argparse
import shlex
import sys

from torch.multiprocessing import ProcessExitedException

from ovdet.engine import ExtractOptions, extract_regions, load_config
from ovdet.engine.extract_plan import PROPOSALS
from ovdet.errors import command
from ovdet.text import parse_vocabulary


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", required=True, metavar="F", help="names detector, teacher and training set")
    add("--output", required=True, metavar="STORE", help="the folder to write")
    add("--dataset", default="", metavar="NAME", help="a registered data set (default: the config's training set)")
    add("--annotations", default="", metavar="X.json", help="or any COCO-format json, with --images")
    add("--images", default="", metavar="DIR", help="the folder of that json's photos")
    add("--split", default="", metavar="S.json", help="base and novel classes of that json (default: all are base)")
    add("--proposals", default="rpn", choices=sorted(PROPOSALS), help="where boxes come from (default: rpn)")
    add("--weights", default="", metavar="W", help="of the detector whose RPN proposes (default: the config's last)")
    add("--proposal-file", default="", metavar="P.json", help="for file: a list of image_id, bbox (x, y, w, h), score")
    add(
        "--proposal-classes", metavar="C", help='for file: names its source was trained on, or a file of them; "": none'
    )
    add("--teacher", default="", metavar="T", help="see tools/embed_vocabulary.py (default: the config's)")
    add("--max-regions", type=int, default=300, metavar="M", help="per photo (default: 300)")
    add("--photos-per-shard", type=int, default=64, metavar="P", help="what a crash can cost (default: 64)")
    add("--resume", action="store_true", help="go on with a store that was begun")
    add("--num-gpus", type=int, default=1, metavar="N", help="processes, each with a GPU if there are any (default: 1)")
    add("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args()


def read_options(arguments: argparse.Namespace) -> ExtractOptions:
    given = vars(arguments).copy()
    classes, processes = given.pop("proposal_classes"), given.pop("num_gpus")
    for key in ("config_file", "overrides"):
        given.pop(key)
    if classes is not None:
        classes = parse_vocabulary(classes).names if classes else ()
    repeat = shlex.join(["python", *sys.argv, *([] if arguments.resume else ["--resume"])])
    return ExtractOptions(**given, proposal_classes=classes, processes=processes, command=repeat)


@command
def main() -> None:
    arguments = parse_arguments()
    options = read_options(arguments)
    try:
        done = extract_regions(load_config(arguments.config_file, arguments.overrides), options)
    except ProcessExitedException as error:  # the process has said why
        sys.exit(error.exit_code)
    for photo, fault in done.faults:
        print(f"left out {photo.image_id}: {fault}", file=sys.stderr)
    print(f"{options.output}: regions of {done.num_photos - len(done.faults)} photos by teacher {done.teacher}")


if __name__ == "__main__":
    main()
