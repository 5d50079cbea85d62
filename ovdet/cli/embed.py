"""Embed class names into a vocabulary file, or convert a matrix (.npy) of embeddings into one.

ovdet embed --vocabulary "cat, dog, fire truck" --output animals.safetensors
ovdet embed --vocabulary lvis.json --teacher open_clip:ViT-B-32-quickgelu/openai --templates vild
    --output lvis.safetensors
ovdet embed --convert lvis_v1_clip_a+cname.npy --vocabulary lvis.json
    --teacher open_clip:ViT-B-32-quickgelu/openai --prompt "a {}" --output lvis.safetensors
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ovdet.cli.arguments import add_json_argument, say
from ovdet.errors import InputError
from ovdet.files import check_place

if TYPE_CHECKING:
    from ovdet.text.embeddings import TextEmbeddings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.allow_abbrev = False
    add("--vocabulary", "--names", required=True, help='"a, b, c" or a .txt / .json file')
    add("--output", required=True, help="the file to write (.safetensors)")
    add("--teacher", help="text encoder; default: conse")
    add("--templates", help='a, photo, vild, clip, or a template such as "a photo of a {}."; default: a')
    add("--device", default="cpu", help="device of the teacher; default: cpu")
    add("--convert", metavar="NPY", help="a (K, D) matrix in the vocabulary's order; no teacher is loaded")
    add("--prompt", help="with --convert: the prompt template of the matrix")
    add_json_argument(parser)


def run(arguments: argparse.Namespace) -> None:
    if not arguments.output.endswith(".safetensors"):
        raise InputError(f"expected --output to end in .safetensors, got {arguments.output}")
    check_place(arguments.output)
    found = _convert(arguments) if arguments.convert else _embed(arguments)
    found.save(arguments.output)
    classes, prompts = len(found.names), len(found.prompts)
    templates = f"{prompts} template{'' if prompts == 1 else 's'}"
    line = f"{arguments.output}: {classes} classes, width {found.width}, teacher {found.teacher}, {templates}"
    values = {"output": arguments.output, "classes": classes, "width": found.width, "teacher": found.teacher}
    say(arguments, line, {**values, "templates": prompts})


def _convert(arguments: argparse.Namespace) -> TextEmbeddings:
    import numpy as np

    from ovdet.text.embeddings import convert_matrix
    from ovdet.text.vocabulary import parse_vocabulary

    if not arguments.teacher or not arguments.prompt or arguments.templates:
        raise InputError("expected --teacher and --prompt with --convert, and no --templates")
    vocabulary = parse_vocabulary(arguments.vocabulary)
    try:
        matrix = np.load(arguments.convert, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"expected a matrix in .npy, got {arguments.convert}, which cannot be read as one") from error
    return convert_matrix(matrix, vocabulary.names, arguments.teacher, [arguments.prompt])


def _embed(arguments: argparse.Namespace) -> TextEmbeddings:
    from ovdet.teachers.registry import load_teacher
    from ovdet.text.embeddings import embed_vocabulary
    from ovdet.text.prompts import resolve_templates
    from ovdet.text.vocabulary import parse_vocabulary

    if arguments.prompt:
        raise InputError("expected --templates, got --prompt, which goes with --convert")
    vocabulary = parse_vocabulary(arguments.vocabulary)
    templates = resolve_templates(arguments.templates or "a")
    return embed_vocabulary(vocabulary, load_teacher(arguments.teacher or "conse", arguments.device), templates)
