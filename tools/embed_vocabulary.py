"""Embed class names into a vocabulary file, or convert a matrix (.npy) of embeddings into one.

tools/embed_vocabulary.py --vocabulary "cat, dog, fire truck" --output animals.safetensors
tools/embed_vocabulary.py --vocabulary lvis.json --teacher open_clip:ViT-B-32-quickgelu/openai --templates vild
    --output lvis.safetensors
tools/embed_vocabulary.py --convert lvis_v1_clip_a+cname.npy --vocabulary lvis.json
    --teacher open_clip:ViT-B-32-quickgelu/openai --prompt "a {}" --output lvis.safetensors
"""

from __future__ import annotations

import argparse

import numpy as np

from ovdet.errors import InputError, command
from ovdet.teachers.registry import load_teacher
from ovdet.text.embeddings import TextEmbeddings, convert_matrix, embed_vocabulary
from ovdet.text.prompts import resolve_templates
from ovdet.text.vocabulary import parse_vocabulary


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--vocabulary", required=True, help='"a, b, c" or a .txt / .json file')
    parser.add_argument("--output", required=True, help="the file to write (.safetensors)")
    parser.add_argument("--teacher", help="text encoder; default: conse")
    parser.add_argument(
        "--templates", help='a, photo, vild, clip, or a template such as "a photo of a {}."; default: a'
    )
    parser.add_argument("--device", default="cpu", help="device of the teacher; default: cpu")
    parser.add_argument(
        "--convert", metavar="NPY", help="a (K, D) matrix in the vocabulary's order; no teacher is loaded"
    )
    parser.add_argument("--prompt", help="with --convert: the prompt template of the matrix")
    return parser.parse_args()


def convert(options: argparse.Namespace) -> TextEmbeddings:
    if not options.teacher or not options.prompt or options.templates:
        raise InputError("expected --teacher and --prompt with --convert, and no --templates")
    vocabulary = parse_vocabulary(options.vocabulary)
    try:
        matrix = np.load(options.convert, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"expected a matrix in .npy, got {options.convert}, which cannot be read as one") from error
    return convert_matrix(matrix, vocabulary.names, options.teacher, [options.prompt])


def embed(options: argparse.Namespace) -> TextEmbeddings:
    if options.prompt:
        raise InputError("expected --templates, got --prompt, which goes with --convert")
    vocabulary = parse_vocabulary(options.vocabulary)
    templates = resolve_templates(options.templates or "a")
    return embed_vocabulary(vocabulary, load_teacher(options.teacher or "conse", options.device), templates)


@command
def main() -> None:
    options = parse_arguments()
    if not options.output.endswith(".safetensors"):
        raise InputError(f"expected --output to end in .safetensors, got {options.output}")
    embeddings = convert(options) if options.convert else embed(options)
    embeddings.save(options.output)
    print(
        f"{options.output}: {len(embeddings.names)} classes, width {embeddings.width}, "
        f"teacher {embeddings.teacher}, {len(embeddings.prompts)} template{'' if len(embeddings.prompts) == 1 else 's'}"
    )


if __name__ == "__main__":
    main()
