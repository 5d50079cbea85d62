"""Learn classes of your own from annotated photos; the detector stays as it is, and so do the scores of other names.

tools/learn.py --annotations my.json --images photos --output my.safetensors
tools/demo.py --input photo.jpg --classes my.safetensors --vocabulary "dog, red kite" --output output/demo
"""

from __future__ import annotations

import argparse
import time

from ovdet.errors import InputError, command
from ovdet.files import require_path
from ovdet.hub.find import DEFAULT_MODEL
from ovdet.inference.load import load_predictor
from ovdet.learning.classes_file import save_classes
from ovdet.learning.learn import read_examples, read_negatives


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--annotations", required=True, metavar="X.json", help="COCO format; all things of a learned class have boxes")
    add("--images", required=True, metavar="DIR", help="the folder of its photos")
    add("--output", required=True, metavar="F.safetensors", help="the learned classes")
    add("--name", action="append", default=[], metavar="N", help="class to learn, may be repeated (default: all)")
    none = "photos that show none of the classes, as one more json; those that do are left out"
    add("--negatives-from", metavar="Y.json", help=none)
    add("--negatives-images", metavar="DIR", help="the folder of these photos (default: as --images)")
    add("--model", metavar="M", help=f"the detector, as for tools/demo.py (default: {DEFAULT_MODEL})")
    add("--config-file", metavar="C", help="of the detector, instead of --model")
    add("--weights", metavar="W", help="the config's checkpoint (default: its run's last)")
    add("--device", metavar="D", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    add("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args()


@command
def main() -> None:
    arguments = parse_arguments()
    if not require_path(arguments.output).endswith(".safetensors"):
        raise InputError(f"expected an output file *.safetensors, got {arguments.output}")
    names, photos = read_examples(arguments.annotations, arguments.images, arguments.name)
    if arguments.negatives_from:
        folder = arguments.negatives_images or arguments.images
        photos += read_negatives(arguments.negatives_from, folder, names)
    chosen = {key: getattr(arguments, key) for key in ("model", "config_file", "weights", "device", "overrides")}
    predictor = load_predictor(**chosen)
    start = time.perf_counter()
    classes = predictor.learn_classes(names, photos)
    save_classes(arguments.output, classes)
    seconds = time.perf_counter() - start
    print(f"{arguments.output}: {len(names)} learned from {len(photos)} photos in {seconds:.0f} s")


if __name__ == "__main__":
    main()
