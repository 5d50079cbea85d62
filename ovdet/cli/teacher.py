"""Find out what a teacher knows, before anything is trained with it.

ovdet teacher zero-shot conse --photos photos_by_class
ovdet teacher probe conse --annotations instances_val.json --images images --output output/probe
ovdet teacher robustness conse --photos studio --photos kitchen
ovdet teacher coverage --model ovdet-lite --names "red kite, zebra, teapot"
ovdet teacher map conse --photos photos_by_class --output output/map
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovdet.cli.arguments import MODELS, add_device_argument, add_json_argument
from ovdet.errors import InputError
from ovdet.files import check_place

if TYPE_CHECKING:
    from ovdet.teacher_lab.labeled import LabeledSet
    from ovdet.teachers.base import Teacher
    from ovdet.text.vocabulary import Vocabulary

_TEACHER = "conse, open_clip:ARCH/TAG, hf:REPO, ... (see docs/teachers.md)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, (summary, add, _) in COMMANDS.items():
        one = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        add(one)
        add_device_argument(one)
        add_json_argument(one)


def run(arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        check_place(arguments.output, is_folder=arguments.command in ("probe", "map"))
    COMMANDS[arguments.command][2](arguments)


class _AddSet(argparse.Action):
    """The sets of a command line in its order: an option that the last set has, or of the other kind, begins one."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: str | None = None) -> None:
        sets = list(getattr(namespace, "sets", None) or [])
        key = (option or "").lstrip("-")
        if not sets or key in sets[-1] or "photos" in (key, *sets[-1]):
            sets.append({})
        sets[-1] = {**sets[-1], key: value}
        namespace.sets = sets


def _add_set_arguments(parser: argparse.ArgumentParser) -> None:
    def add(option: str, metavar: str, text: str) -> None:
        parser.add_argument(option, action=_AddSet, dest="sets", metavar=metavar, help=text)

    add("--photos", "DIR", "a folder with a sub-folder of photos for each class")
    add("--annotations", "X.json", "or a COCO-format json, whose boxes are taken")
    add("--images", "DIR", "the folder of the json's images")
    add("--split", "S.json", "base and novel classes of the json; ignored ones are left out (default: all are base)")


def _add_templates(parser: argparse.ArgumentParser, **more: Any) -> None:
    text = "prompts: a, photo, vild, clip, or a template with {} (default: a)"
    parser.add_argument("--templates", metavar="P", help=more.pop("help", text), **more)


def _add_zero_shot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("teacher", metavar="T", help=_TEACHER)
    _add_set_arguments(parser)
    names = "the names that compete, a .txt or .json file with synonyms or more names (default: the set's classes)"
    parser.add_argument("--vocabulary", "--names", metavar='"a,b"|FILE', help=names)
    prompts = "prompts: a, photo, vild, clip, or a template with {}; several times to compare them (default: a)"
    _add_templates(parser, action="append", help=prompts)
    parser.add_argument("--max-objects", type=int, metavar="N", help="take a random sample of N objects (default: all)")
    parser.add_argument("--output", metavar="F.json", help="write the results there too")


def _run_zero_shot(arguments: argparse.Namespace) -> None:
    from ovdet.teacher_lab.labeled import draw_objects
    from ovdet.teacher_lab.tables import zero_shot_table
    from ovdet.teacher_lab.zero_shot import classify

    teacher = _load_teacher(arguments)
    (data,) = _read_sets(arguments, 1)
    data = draw_objects(data, arguments.max_objects)
    vocabulary = _read_vocabulary(arguments.vocabulary) if arguments.vocabulary else None
    reports = classify(teacher, data, arguments.templates or ["a"], vocabulary=vocabulary)
    best = reports[-1]
    counts = list(dict.fromkeys(len(each.templates) for each in reports))
    prompts = "1 prompt" if counts == [1] else f"{' and '.join(map(str, counts))} prompts"
    line = f"{best.teacher} ({best.fingerprint}), {best.ways}-way, {prompts}"
    _tell(arguments, [each.as_dict() for each in reports], [zero_shot_table(reports)], line, output=arguments.output)


def _add_probe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("teacher", metavar="T", help=_TEACHER)
    _add_set_arguments(parser)
    _add_templates(parser)
    shots = "objects of each class to learn from (default: 1,2,4,8,16)"
    parser.add_argument("--shots", type=_numbers, default=(1, 2, 4, 8, 16), metavar="N,N", help=shots)
    parser.add_argument("--draws", type=_positive, default=3, metavar="N", help="of the few objects (default: 3)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for probe.json and probe.png")


def _run_probe(arguments: argparse.Namespace) -> None:
    from ovdet.files import atomic_write
    from ovdet.teacher_lab.embed import all_views, embed_objects
    from ovdet.teacher_lab.plots import draw_probe
    from ovdet.teacher_lab.probe import deal, few_shot, with_enough_photos, zero_shot_row
    from ovdet.teacher_lab.tables import probe_table

    teacher = _load_teacher(arguments)
    (data,) = _read_sets(arguments, 1)
    data, left_out = with_enough_photos(data)
    class_embeddings = _embed_names(data.names, teacher, arguments.templates)
    view, embeddings = list(embed_objects(data, all_views(teacher, data), teacher.input_size).items())[-1]
    train, validation, test = deal(data, embeddings)
    rows = [zero_shot_row(class_embeddings, test)]
    rows += few_shot(train, validation, test, arguments.shots, range(arguments.draws))
    values = {
        "teacher": teacher.name,
        "fingerprint": teacher.fingerprint,
        "set": data.title,
        "view": view,
        "classes": list(data.names),
        "left_out": left_out,
        "objects": {"train": len(train.labels), "validation": len(validation.labels), "test": len(test.labels)},
        "rows": [row.as_dict() for row in rows],
    }
    folder = Path(arguments.output)
    title = f"{teacher.name} on {data.title}: {len(data.names)} classes, {len(test.labels)} objects tested"
    atomic_write(folder / "probe.png", draw_probe(rows, title))
    lines = [f"{title}, {len(train.labels)} to learn from, {len(validation.labels)} for the sweep of C"]
    if left_out:
        lines.append(f"left out, in less than 3 photos: {', '.join(left_out)}")
    _tell(arguments, values, [probe_table(rows)], *lines, output=folder / "probe.json")


def _add_robustness(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("teacher", metavar="T", help=_TEACHER)
    _add_set_arguments(parser)
    _add_templates(parser)
    probe = "also a linear probe that learned from the first set"
    parser.add_argument("--probe", action="store_true", help=probe)
    parser.add_argument("--output", metavar="F.json", help="write the results there too")


def _run_robustness(arguments: argparse.Namespace) -> None:
    from ovdet.teacher_lab.embed import crop_view, embed_objects
    from ovdet.teacher_lab.robustness import compare_sets
    from ovdet.teacher_lab.tables import robustness_table

    teacher = _load_teacher(arguments)
    sets = _read_sets(arguments, 2, most=None)
    class_embeddings = _embed_names(sets[0].names, teacher, arguments.templates)
    embeddings = [
        next(iter(embed_objects(each, crop_view(teacher, each), teacher.input_size).values())) for each in sets
    ]
    rows = compare_sets(sets, embeddings, class_embeddings, with_probe=arguments.probe)
    lines = [f"{teacher.name} ({teacher.fingerprint}); a drop is from {rows[0].title}, on the classes of both"]
    lines += [f"{row.title}: not in {rows[0].title}: {', '.join(row.left_out)}" for row in rows if row.left_out]
    values = {"teacher": teacher.name, "fingerprint": teacher.fingerprint, "sets": [row.as_dict() for row in rows]}
    _tell(arguments, values, [robustness_table(rows)], *lines, output=arguments.output)


def _add_coverage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("teacher", metavar="T", nargs="?", help=f"{_TEACHER} (default: the model's)")
    names = "the names that will be asked for (default: the classes of a set)"
    parser.add_argument("--vocabulary", "--names", metavar='"a,b"|FILE', help=names)
    _add_set_arguments(parser)
    model = f"a detector, whose training classes are compared: {MODELS} (default: ovdet-lite, without a teacher)"
    parser.add_argument("--model", metavar="M", help=model)
    _add_templates(parser)
    near = "cosine from which on a concept is near (default: 0.5, measured with conse)"
    parser.add_argument("--near", type=float, metavar="C", help=near)
    measure = "classify the set's objects too: zero-shot accuracy by cosine, which tells what --near is worth"
    parser.add_argument("--measure", action="store_true", help=measure)
    parser.add_argument("--output", metavar="F.json", help="write the results there too")


def _run_coverage(arguments: argparse.Namespace) -> None:
    from ovdet.inference.everyday_words import with_trained_words
    from ovdet.teacher_lab.tables import coverage_line, coverage_table, warnings_of
    from ovdet.text.coverage import NEAR, cover

    vocabulary, data = _names_of_coverage(arguments)
    trained: list[str] = []
    if arguments.model or not arguments.teacher:
        trained = _read_model(arguments)
    asked, hints = with_trained_words(vocabulary, trained)
    near = NEAR if arguments.near is None else arguments.near
    teacher = _load_teacher(arguments)
    templates = arguments.templates or "a"
    found = cover(asked, teacher, trained, templates=templates, near=near)
    values = {
        "teacher": teacher.name,
        "fingerprint": teacher.fingerprint,
        "training_classes": len(trained),
        "near": near,
        "names": [each.as_dict() for each in found],
        "warnings": warnings_of(found, near=near),
        "hints": hints,
    }
    lines = [f"{teacher.name}: {coverage_line(found)}"]
    lines += [*hints, *(f"warning: {warning}" for warning in values["warnings"])]
    tables = [coverage_table(found)]
    if data is not None:
        values["accuracy_by_cosine"], table = _measure(teacher, data, vocabulary, templates, found)
        tables.append(table)
    _tell(arguments, values, tables, *lines, output=arguments.output)


def _names_of_coverage(arguments: argparse.Namespace) -> tuple[Vocabulary, LabeledSet | None]:
    """The names, and with --measure the set."""
    from ovdet.data.coco import read_coco_json
    from ovdet.text.vocabulary import Vocabulary

    sets = arguments.sets or []
    if arguments.measure or (sets and "photos" in sets[0]):
        (data,) = _read_sets(arguments, 1)
        vocabulary = _read_vocabulary(arguments.vocabulary) if arguments.vocabulary else Vocabulary(data.names)
        return vocabulary, data if arguments.measure else None
    if bool(arguments.vocabulary) == bool(sets) or len(sets) > 1 or (sets and "annotations" not in sets[0]):
        raise InputError(
            "expected the names to look for: --names NAMES, --annotations X.json or --photos DIR, one of them"
        )
    if arguments.vocabulary:
        return _read_vocabulary(arguments.vocabulary), None
    return Vocabulary(tuple(read_coco_json(sets[0]["annotations"]).names.values())), None


def _read_model(arguments: argparse.Namespace) -> list[str]:
    """A model's training classes; its teacher and its prompts, where no others are asked for, go into the arguments."""
    from ovdet.engine.checkpoint import HEADER, known_classes, read_checkpoint
    from ovdet.hub.find import DEFAULT_MODEL, find_model, open_config

    files = find_model(arguments.model or DEFAULT_MODEL)
    config = open_config(files.config_file).teacher
    arguments.teacher = arguments.teacher or config.name
    arguments.templates = arguments.templates or config.templates
    trained = known_classes(read_checkpoint(files.weights)[HEADER])
    if not trained:
        raise InputError(f"expected a detector that says which classes it was trained on, {files.weights} does not")
    return trained


def _measure(teacher: Teacher, data: LabeledSet, vocabulary: Vocabulary, templates: Any, found: Any) -> tuple[Any, Any]:
    """Zero-shot accuracy by cosine, as plain values and as a table."""
    from ovdet.teacher_lab.bands import accuracy_by_similarity
    from ovdet.teacher_lab.embed import crop_view
    from ovdet.teacher_lab.tables import band_table
    from ovdet.teacher_lab.zero_shot import classify
    from ovdet.text.class_names import normalize_class_name

    (report,) = classify(teacher, data, [templates], vocabulary=vocabulary, views=crop_view(teacher, data))
    top1 = {normalize_class_name(each.name): each.top1 for each in report.classes}
    bands = accuracy_by_similarity(
        [each.imagenet.similarity for each in found], [top1.get(normalize_class_name(each.name)) for each in found]
    )
    return [asdict(band) for band in bands], band_table(bands)


def _add_map(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("teacher", metavar="T", help=_TEACHER)
    _add_set_arguments(parser)
    _add_templates(parser)
    parser.add_argument(
        "--per-class", type=_positive, default=5, metavar="N", help="objects of a class, drawn at random (default: 5)"
    )
    parser.add_argument("--pca", action="store_true", help="principal components (default: t-SNE)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for map.png and map.html")


def _run_map(arguments: argparse.Namespace) -> None:
    from ovdet.files import atomic_write
    from ovdet.teacher_lab.embed import crop_view, embed_objects
    from ovdet.teacher_lab.labeled import draw_objects
    from ovdet.teacher_lab.maps import make_map, map_page, project_pca, project_tsne, thumbnails
    from ovdet.teacher_lab.plots import draw_map

    teacher = _load_teacher(arguments)
    (data,) = _read_sets(arguments, 1)
    data = draw_objects(data, per_class=arguments.per_class)
    class_embeddings = _embed_names(data.names, teacher, arguments.templates)
    (regions,) = embed_objects(data, crop_view(teacher, data), teacher.input_size).values()
    drawn = make_map(data.names, class_embeddings, regions, data.labels, project_pca if arguments.pca else project_tsne)
    title = f"{teacher.name}, {data.title}: {len(data.names)} names, {len(regions)} regions"
    folder = Path(arguments.output)
    atomic_write(folder / "map.png", draw_map(drawn, title))
    atomic_write(folder / "map.html", map_page(drawn, title, thumbnails(data)).encode())
    right = int((drawn.nearest == drawn.labels).sum())
    values = {"output": arguments.output, "names": len(data.names), "regions": len(regions), "nearest_is_own": right}
    line = f"{title}; the nearest text is their own for {right}: {folder / 'map.png'}, {folder / 'map.html'}"
    _tell(arguments, values, [], line)


COMMANDS = {
    "zero-shot": ("Accuracy on photos by class or annotated boxes, by names alone.", _add_zero_shot, _run_zero_shot),
    "probe": ("Linear probes on few and on all objects, beside zero-shot.", _add_probe, _run_probe),
    "robustness": ("Accuracy on several sets, and the drop from the first.", _add_robustness, _run_robustness),
    "coverage": ("Which names have a near concept among the trained ones.", _add_coverage, _run_coverage),
    "map": ("Names and regions in the plane: a picture, and a page with hover.", _add_map, _run_map),
}


def _load_teacher(arguments: argparse.Namespace) -> Teacher:
    from ovdet.device import choose_device
    from ovdet.teachers.registry import load_teacher

    return load_teacher(arguments.teacher, choose_device(arguments.device or "auto"))


def _read_sets(arguments: argparse.Namespace, least: int, most: int | None = 1) -> list[LabeledSet]:
    """The sets of the command line, in its order."""
    from ovdet.teacher_lab.labeled import read_class_folders, read_coco_boxes

    sets = arguments.sets or []
    if len(sets) < least or (most is not None and len(sets) > most):
        number = "one set" if most == 1 else f"{least} sets or more"
        raise InputError(f"expected {number}, --photos DIR or --annotations X.json --images DIR, got {len(sets)}")
    for each in sets:
        missing = [key for key in ("annotations", "images") if key not in each and "photos" not in each]
        if missing:
            raise InputError(f"expected --{missing[0]} too, got {' '.join(f'--{key} {each[key]}' for key in each)}")
    found = [
        read_class_folders(each["photos"])
        if "photos" in each
        else read_coco_boxes(each["annotations"], each["images"], each.get("split"))
        for each in sets
    ]
    titles = [each.title for each in found]
    paths = [each.get("photos") or each["annotations"] for each in sets]
    return [
        each if titles.count(each.title) == 1 else replace(each, title=path)
        for each, path in zip(found, paths, strict=True)
    ]


def _read_vocabulary(text: str) -> Vocabulary:
    from ovdet.text.vocabulary import parse_vocabulary

    return parse_vocabulary(text)


def _embed_names(names: Sequence[str], teacher: Teacher, templates: str | None) -> Any:
    """(K, D) on the CPU."""
    from ovdet.text.embeddings import embed_vocabulary
    from ovdet.text.vocabulary import Vocabulary

    return embed_vocabulary(Vocabulary(tuple(names)), teacher, templates or "a").matrix.cpu()


def _tell(
    arguments: argparse.Namespace, values: Any, tables: Sequence[Any], *lines: str, output: str | Path | None = None
) -> None:
    """Print a result, as tables and lines or as JSON, and write it where that was asked for."""
    from rich.console import Console

    from ovdet.files import atomic_write

    if arguments.json:
        print(json.dumps(values, ensure_ascii=False), flush=True)
    else:
        console = Console()
        for table in tables:
            console.print(table)
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if output:
        atomic_write(output, (json.dumps(values, ensure_ascii=False, indent=1) + "\n").encode())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({_positive(part) for part in text.split(",")}))


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number
