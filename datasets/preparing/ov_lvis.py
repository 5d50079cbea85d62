"""OV-LVIS (LVIS v1: frequent and common classes are base, rare ones novel) from LVIS's own annotation files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovdet.data.coco import check_coco, listed, read_json, write_json
from ovdet.data.splits import load_split
from ovdet.errors import InputError
from ovdet.text.class_names import same_class_name, with_nearest
from ovdet.text.vocabulary import Vocabulary
from preparing.counts import Count, check_counts, check_inputs

SOURCE = "https://www.lvisdataset.org/dataset"
SUBSET_OF_FREQUENCY = {"f": "base", "c": "base", "r": "novel"}
COUNTS = {
    "split": {"base classes": 866, "novel classes": 337},
    "val": {"photos": 19_809},
    "train": {"photos": 100_170},
}


def prepare_ov_lvis(
    annotations: Path, split: Path, output: Path, *, counts: Mapping[str, Mapping[str, int]] | None = None
) -> list[Count]:
    """Write ov_lvis_v1_{train,val,split,vocabulary}.json; the last one holds the names with LVIS's synonyms.

    Training keeps all photos and categories and loses the annotations of rare classes. Evaluation keeps everything:
    what LVIS says of each photo (`neg_category_ids`, `not_exhaustive_category_ids`) is needed to judge detections.

    Args:
        annotations: the folder of lvis_v1_{train,val}.json.
        split: the split json, which the categories' frequencies must agree with.
        output: the folder to write to.
        counts: the known counts; None for COUNTS.

    Returns:
        The report.

    Raises:
        InputError: a file is missing or not LVIS's, counts or split differ, or the place cannot be written to.
    """
    counts = COUNTS if counts is None else counts
    check_inputs([annotations / f"lvis_v1_{part}.json" for part in ("train", "val")], SOURCE)
    named = load_split(split)
    report = check_counts(split, {f"{subset} classes": len(named[subset]) for subset in ("base", "novel")},
                          counts["split"])  # fmt: skip
    for part in ("val", "train"):  # the short file first: what is wrong shows soon
        path = annotations / f"lvis_v1_{part}.json"
        content = read_json(path, "LVIS's annotations", progress=True)
        check_coco(content, path)
        check_frequencies(content["categories"], named, path)
        kept = content if part == "val" else drop_classes(content, named["novel"])
        found = {
            "photos": len(kept["images"]),
            "annotations": len(content["annotations"]),
            "annotations kept": len(kept["annotations"]),
        }
        report += check_counts(path, found, counts[part])
        write_json(output / f"ov_lvis_v1_{part}.json", kept)
    write_json(output / "ov_lvis_v1_split.json", read_json(split, "a split json"))
    with_synonyms(content["categories"]).save(output / "ov_lvis_v1_vocabulary.json")
    return report


def with_synonyms(categories: Sequence[Mapping[str, Any]]) -> Vocabulary:
    """LVIS's names, each with those of its `synonyms` that read otherwise."""
    synonyms = {}
    for category in categories:
        others = [other for other in category.get("synonyms", ()) if not same_class_name(other, category["name"])]
        if others:
            synonyms[category["name"]] = others
    return Vocabulary([category["name"] for category in categories], synonyms)


def check_frequencies(
    categories: Sequence[Mapping[str, Any]], split: Mapping[str, Sequence[str]], path: str | Path
) -> None:
    """Compare a split with how LVIS groups its classes.

    Args:
        categories: of a json of LVIS, with `name` and `frequency` ("f", "c" or "r").
        split: class names by subset; base ones are to be frequent or common, novel ones rare.
        path: where the categories were read, for the message.

    Raises:
        InputError: naming a class whose frequency is missing or of another subset.
    """
    subset_of = {name: subset for subset, names in split.items() for name in names}
    for category in categories:
        name, frequency = category["name"], category.get("frequency")
        if frequency not in SUBSET_OF_FREQUENCY:
            raise InputError(f"expected frequency f, c or r of each category in {path}, got {frequency!r} of {name}")
        expected, actual = subset_of.get(name), SUBSET_OF_FREQUENCY[frequency]
        if expected != actual:
            raise InputError(
                f"expected class {name} of {path} to be {expected or 'absent'}, its frequency makes it {actual}"
            )
    absent = sorted(set(subset_of) - {category["name"] for category in categories})
    if absent:
        told = listed(with_nearest(absent, [category["name"] for category in categories]))
        raise InputError(f"expected the split's classes in {path}, it does not have: {told}")


def drop_classes(content: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """A COCO-format json without the annotations of some classes; photos and categories stay."""
    dropped = {category["id"] for category in content["categories"] if category["name"] in set(names)}
    kept = [annotation for annotation in content["annotations"] if annotation["category_id"] not in dropped]
    return {**content, "annotations": kept}
