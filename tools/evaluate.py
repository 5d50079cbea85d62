"""Evaluate a detector zero-shot on COCO-format data, with the class names of its json.

tools/evaluate.py --annotations instances_val.json --images photos --output output/evaluation --model output/lite/vild
tools/evaluate.py --annotations instances_val.json --images photos --output output/evaluation --split split.json
    --config-file configs/lite/vild.py --weights output/lite/vild/model_final.pth --setting constrained
"""

from __future__ import annotations

import argparse

from ovdet.engine.config import override
from ovdet.errors import command
from ovdet.files import require_path
from ovdet.hub.find import add_model_arguments, choose_model, open_config
from ovdet.inference.evaluate import evaluate_on
from ovdet.learning.classes_file import load_classes
from ovdet.text.classes import parse_negatives
from ovdet.text.vocabulary import Vocabulary


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", required=True, metavar="X.json", help="COCO format")
    parser.add_argument("--images", required=True, metavar="DIR", help="the folder of its images")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for metrics, detections, plots and log")
    parser.add_argument(
        "--split",
        metavar="S.json",
        help="which classes are base, novel or ignored: figures come by subset, photos without an object of the asked "
        "names are left out, as OV-COCO does; with --lvis none are (default: all classes, all photos)",
    )
    parser.add_argument(
        "--setting",
        choices=("generalized", "constrained"),
        default="generalized",
        help="ask for base and novel names at once, or for the novel ones alone (default: generalized)",
    )
    add_model_arguments(parser)
    parser.add_argument("--teacher", metavar="T", help="teacher that embeds the names (default: the config's)")
    parser.add_argument(
        "--lvis", action="store_true", help="LVIS's federated AP; X.json is LVIS's (default: COCO's AP)"
    )
    synonyms = "synonyms of the json's class names, of which the best counts: a .txt or .json file (default: none)"
    parser.add_argument("--vocabulary", metavar="FILE", help=synonyms)
    learned = "classes of the json that tools/learn.py learned, instead of their names (default: none)"
    parser.add_argument("--classes", metavar="FILE", help=learned)
    negatives = "what looks more like these names is left out, as tools/demo.py has it (default: none)"
    parser.add_argument("--negatives", metavar='"a,b"|FILE', help=negatives)
    parser.add_argument("--masks", action="store_true", help="mask AP too (default: boxes only)")
    parser.add_argument(
        "--max-detections", type=int, metavar="N", help="per image (default: the config's and the protocol's)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile the backbone: takes a minute, then faster"
    )
    parser.add_argument("--half", action="store_true", help="mixed precision: faster, AP may differ a little")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args()


@command
def main() -> None:
    arguments = parse_arguments()
    config_file, weights = choose_model(arguments.model, arguments.config_file, arguments.weights)
    chosen = {"teacher.name": arguments.teacher, "train.device": arguments.device}
    overrides = [*arguments.overrides, *(override(key, value) for key, value in chosen.items() if value)]
    evaluate_on(
        open_config(config_file, overrides),
        arguments.annotations,
        arguments.images,
        require_path(arguments.output),
        weights=weights,
        split=arguments.split,
        setting=arguments.setting,
        iou_types=("bbox", "segm") if arguments.masks else ("bbox",),
        max_detections=arguments.max_detections,
        lvis=arguments.lvis,
        vocabulary=Vocabulary.load(arguments.vocabulary) if arguments.vocabulary else None,
        learned=load_classes(arguments.classes) if arguments.classes else None,
        negatives=parse_negatives(arguments.negatives) or (),
        compile=arguments.compile,
        half=arguments.half,
    )


if __name__ == "__main__":
    main()
