"""Teacher embeddings of a training set's regions, once, for configs that read a region store.

tools/extract_regions.py --config-file configs/lite/vild_text.py --weights output/lite/vild_text/model_final.pth
    --output regions.safetensors --max-regions 32 dataset.root=PATH
"""

from __future__ import annotations

import argparse

from ovdet.engine import extract_regions, load_config
from ovdet.errors import command


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="F", help="names detector, teacher and training set")
    parser.add_argument("--weights", required=True, metavar="W", help="a checkpoint of that detector: its RPN proposes")
    parser.add_argument("--output", required=True, metavar="STORE", help="the file to write (.safetensors)")
    parser.add_argument("--max-regions", type=int, default=300, metavar="M", help="per photo (default: 300)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args()


@command
def main() -> None:
    arguments = parse_arguments()
    config = load_config(arguments.config_file, arguments.overrides)
    photos = extract_regions(config, arguments.output, weights=arguments.weights, max_regions=arguments.max_regions)
    print(f"{arguments.output}: regions of {photos} photos by teacher {config.teacher.name}")


if __name__ == "__main__":
    main()
