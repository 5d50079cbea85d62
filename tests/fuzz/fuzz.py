"""Mutated files of every kind that ovdet reads: each must be read or refused in one line, and never crash, hang, take a
gigabyte or run code.

    python tests/fuzz/fuzz.py 1000 --kinds coco,checkpoint --seed 3

Each chunk of inputs is read in a forked process of its own, so that a crash or a hang ends the chunk alone.
"""

from __future__ import annotations

import argparse
import io
import json
import mmap
import os
import pickle
import random
import resource
import signal
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from PIL import Image

from ovdet.class_embeddings import ClassEmbeddings, LearnedRows
from ovdet.data.coco import is_degenerate, read_coco_json, usable_segmentation
from ovdet.data.images import read_image
from ovdet.data.proposal_files import PrecomputedProposals, read_proposal_file
from ovdet.data.splits import load_split
from ovdet.engine.checkpoint import read_checkpoint
from ovdet.engine.config import apply_overrides, load_config, read_run_values
from ovdet.errors import InputError
from ovdet.export.onnx_detector import read_description
from ovdet.hub.find import SHIPPED
from ovdet.hub.model_folder import read_model_config
from ovdet.learning.classes_file import load_classes, save_classes
from ovdet.modeling.nanodet_weights import read_ncnn
from ovdet.regions.plan import ImageRecord, RegionPlan, write_plan
from ovdet.regions.shard import ImageRegions, write_shard
from ovdet.regions.store import RegionStore
from ovdet.text.embeddings import TextEmbeddings, load_embeddings
from ovdet.text.vocabulary import Vocabulary

QUICK = str(Path(__file__).parents[2] / "configs/quick/vild.py")
SECONDS, MEMORY = 20, 2**30  # an input's limits; memory beyond what the process has at the start
CHUNK = 50
ODD: list[Any] = [  # values that stand where others should
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 1e308, -1e-308, 0.5, float("nan"), float("inf")),
    *(
        "",
        "a",
        "\x00",
        "\u200b",
        "../x",
        "/etc/passwd",
        "\ud800",
        "9" * 400,
        "os.system",
        "${oc.env:HOME}",
        "\u00e9" * 300,
    ),
    *([], {}, [[]], [None], {"a": {}}, [0] * 9, [1, 2, 3, 4], [-1, "x", None, 2.5]),
    {"_target_": "os.system", "command": "touch canary"},
]


@dataclass
class Kind:
    """A kind of file: how one looks, and who reads it."""

    suffix: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], Any]
    mutate: Callable[[bytes, random.Random], bytes]


# ---------------------------------------------------------------- mutations


def mutate_bytes(content: bytes, chance: random.Random) -> bytes:
    """A few bytes flipped, cut, doubled, moved or replaced."""
    content = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not content:
            break
        at, length = chance.randrange(len(content)), chance.choice((1, 1, 2, 4, 64))
        what = chance.randrange(6)
        if what == 0:
            content[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            content[at : at + length] = b""
        elif what == 2:
            content[at:at] = bytes(chance.randrange(256) for _ in range(length))
        elif what == 3:
            content[at:at] = content[at : at + length]
        elif what == 4:
            content[at : at + length] = chance.choice((b"\xff", b"\x00", b"\x7f")) * length
        else:
            content = content[: at if chance.random() < 0.5 else len(content)]
    return bytes(content)


def mutate_value(value: Any, chance: random.Random) -> Any:
    """A json value with some of its nodes replaced, left out, doubled or renamed."""
    places = list(_places(value))
    for _ in range(chance.choice((1, 1, 2, 5))):
        if not places:
            return chance.choice(ODD)
        parent, key = chance.choice(places)
        if isinstance(parent, list) and not (isinstance(key, int) and key < len(parent)):
            continue
        if isinstance(parent, dict) and key not in parent:
            continue
        _change(parent, key, chance)
    return value


def _change(parent: Any, key: Any, chance: random.Random) -> None:
    what = chance.randrange(8)
    if what <= 3:
        parent[key] = chance.choice(ODD)
    elif what == 4:
        del parent[key]
    elif what == 5 and isinstance(parent, list):
        parent.insert(key, parent[key])
    elif what == 5:
        parent[chance.choice(("id", "names", "", "x", "_target_"))] = parent[key]
    elif what == 6:
        parent[key] = [parent[key]]
    elif isinstance(parent[key], (int, float)):
        parent[key] = parent[key] * chance.choice((-1, 0, 1e3, 1e9, 2**40)) + chance.choice((0, 0.5, 1))
    else:
        parent[key] = str(parent[key])


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def mutate_json(content: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.3:
        return mutate_bytes(content, chance)
    return json.dumps(mutate_value(json.loads(content), chance)).encode()


def mutate_yaml(content: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.4 or b"!!" in content:
        return mutate_bytes(content, chance)
    return yaml.safe_dump(mutate_value(yaml.safe_load(content), chance)).encode()


def mutate_safetensors(content: bytes, chance: random.Random) -> bytes:
    """Its header as json, with the right length in front; or its bytes."""
    size = int.from_bytes(content[:8], "little")
    if chance.random() < 0.3 or size > len(content):
        return mutate_bytes(content, chance)
    header = json.loads(content[8 : 8 + size])
    nested = [key for key, value in header.get("__metadata__", {}).items() if value[:1] in ("{", "[")]
    if nested and chance.random() < 0.6:
        key = chance.choice(nested)
        header["__metadata__"][key] = json.dumps(mutate_value(json.loads(header["__metadata__"][key]), chance))
    else:
        header = mutate_value(header, chance)
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + content[8 + size :]


def mutate_zip(content: bytes, chance: random.Random) -> bytes:
    """A .pth: the pickle inside, or one of the other entries; or the archive's bytes."""
    if chance.random() < 0.3 or not zipfile.is_zipfile(io.BytesIO(content)):
        return mutate_bytes(content, chance)
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(target, "w") as after:
        names = before.namelist()
        chosen = next(n for n in names if n.endswith("data.pkl")) if chance.random() < 0.7 else chance.choice(names)
        for name in names:
            data = before.read(name)
            after.writestr(name, mutate_bytes(data, chance) if name == chosen else data)
    return target.getvalue()


# ---------------------------------------------------------------- seeds


class _RunsCode:
    def __reduce__(self):
        return os.system, ("touch canary",)


def coco(folder: Path) -> list[bytes]:
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in (1, 2)]
    rle = {"size": [40, 60], "counts": [2000, 30, 370]}
    packed = {"size": [40, 60], "counts": "PPP1"}
    annotations = [
        {"id": n, "image_id": 1 + n % 2, "category_id": 1 + n % 3, "bbox": [1.5, 2, 9, 9], "area": 81, "iscrowd": 0,
         "segmentation": shape}
        for n, shape in enumerate(([[1, 1, 9, 1, 9, 9]], rle, packed, []))
    ]  # fmt: skip
    categories = [{"id": i, "name": name, "supercategory": "thing"} for i, name in ((1, "cat"), (2, "dog"), (3, "cup"))]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    lvis = {
        **content,
        "images": [{**each, "neg_category_ids": [2], "not_exhaustive_category_ids": []} for each in images],
    }
    return [json.dumps(each).encode() for each in (content, lvis)]


def read_coco(path: Path) -> None:
    content = read_coco_json(path)
    for annotation in content.annotations:
        image = content.images[annotation["image_id"]]
        is_degenerate(annotation["bbox"], image)
        usable_segmentation(annotation.get("segmentation"), image)


def classes(folder: Path) -> list[bytes]:
    rows = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    learned = LearnedRows(torch.randn(2, 5), torch.randn(2), torch.tensor([1, 1]))
    parts = (rows, torch.tensor([0, 2, -1]), ("cat", "dog", "cup"), torch.tensor([True, False, True]), learned)
    save_classes(folder / "c.safetensors", ClassEmbeddings(*parts, torch.tensor([0.5, torch.nan, 0.1]), "0" * 16))
    return [(folder / "c.safetensors").read_bytes()]


def embeddings(folder: Path) -> list[bytes]:
    matrix = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    TextEmbeddings(matrix, ("cat", "dog", "cup"), ("a {}",), "conse", "f" * 16).save(folder / "e.safetensors")
    return [(folder / "e.safetensors").read_bytes()]


def checkpoints(folder: Path) -> list[bytes]:
    header = {"teacher": "conse", "width": 384, "training_classes": ["cat"], "known_classes": ["cat"]}
    content = {"model": {"a": torch.randn(4, 4), "b": torch.zeros(2)}, "ovdet": header, "iteration": 3}
    stream, old = io.BytesIO(), io.BytesIO()
    torch.save(content, stream)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    return [stream.getvalue(), old.getvalue(), pickle.dumps(_RunsCode())]


def pickles(folder: Path) -> list[bytes]:
    content = {"model": {"a": np.zeros((2, 3), np.float32)}, "__author__": "x"}
    return [pickle.dumps(content, 2), pickle.dumps({"blobs": {"w": np.ones(3)}}, 2), pickle.dumps(_RunsCode(), 2)]


def proposal_pickles(folder: Path) -> list[bytes]:
    content = {"ids": [1, "b"], "boxes": [np.ones((2, 4)), np.ones((0, 4))], "bbox_mode": 0}
    content["objectness_logits"] = [np.zeros(2, np.float32), np.zeros(0)]
    return [pickle.dumps(content, 2), pickle.dumps(content), pickle.dumps({**content, "ids": _RunsCode()})]


def weights(folder: Path) -> list[bytes]:
    header = {"teacher": "conse", "width": 384, "training_classes": ["cat"]}
    return [safetensors.torch.save({"a": torch.randn(4, 4)}, metadata={"ovdet": json.dumps(header)})]


def model_configs(folder: Path) -> list[bytes]:
    return [(SHIPPED["ovdet-lite"] / "config.json").read_bytes()]


def run_configs(folder: Path) -> list[bytes]:
    from ovdet.engine.config import save_config

    save_config(load_config(QUICK), folder / "config.yaml")
    return [(folder / "config.yaml").read_bytes(), b"a: !!python/object/apply:os.system [touch canary]\n"]


def plan_of(folder: Path) -> RegionPlan:
    images = tuple(ImageRecord(i, f"{i}.jpg", 40, 60) for i in range(3))
    parts = dict(
        dataset={"name": "d"},
        crops={"scales": [1.0, 1.5], "resize": "bicubic", "size": [240, 240]},
        proposals={"source": "p", "training_classes": ["cat"]},
    )
    return RegionPlan("conse", "f" * 16, 4, max_regions=5, images_per_shard=2, images=images, **parts)


def stores(folder: Path) -> list[bytes]:
    plan = plan_of(folder)
    write_plan(folder, plan)
    for number in range(plan.num_shards):
        count = len(plan.images[plan.of_shard(number)])
        rows = [
            ImageRegions(torch.rand(3, 4), torch.rand(3, 4), torch.rand(3), (40, 60), bytes(32)) for _ in range(count)
        ]
        write_shard(folder, plan, number, rows)
    return [(folder / "plan.json").read_bytes()]


def shards(folder: Path) -> list[bytes]:
    stores(folder)
    return [(folder / "shard-00000.safetensors").read_bytes()]


def read_store(path: Path, name: str) -> None:
    stores(path.parent)
    (path.parent / name).write_bytes(path.read_bytes())
    store = RegionStore(path.parent)
    store.check(teacher="conse", images=[{"image_id": 1, "file_name": "1.jpg", "height": 40, "width": 60}])
    for image in (0, 1, 2):
        store.regions(image)
    for shard in store._shards.values():
        shard.check_content()


def images(folder: Path) -> list[bytes]:
    picture, found = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)), []
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
        stream = io.BytesIO()
        picture.save(stream, kind)
        found.append(stream.getvalue())
    return found


_NCNN_LIST = "7767517\n1 1\nConvolution a 1 1 0 1 0=2 1=1 5=1 6=6 9=2 -23310=1,1.0e-01\n"
_NCNN_WEIGHTS = bytes(4) + np.arange(6, dtype=np.float32).tobytes() + np.ones(2, np.float32).tobytes()


def read_ncnn_list(path: Path) -> None:
    (path.parent / "x.bin").write_bytes(_NCNN_WEIGHTS)
    list(read_ncnn(str(path), str(path.parent / "x.bin")))


def lines(*texts: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [text.encode() for text in texts]


VOCABULARY = json.dumps({"names": ["cat", "dog"], "synonyms": {"cat": ["kitten"]}, "subsets": {"base": ["cat"]}})
SPLIT = json.dumps({"base": ["cat"], "novel": ["dog"], "source": "x"})
PROPOSALS = json.dumps(
    {"training_classes": ["cat"], "proposals": [{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]}
)
DESCRIPTION = json.dumps(
    {"format": "ovdet detector 1", "teacher": "conse", "width": 384, "templates": ["a {}"], "fingerprint": "f",
     "resize": {"short_edge_length": 384, "max_size": 640}, "training_classes": ["cat"]}
)  # fmt: skip

KINDS = {
    "coco": Kind(".json", coco, read_coco, mutate_json),
    "split": Kind(".json", lines(SPLIT), load_split, mutate_json),
    "vocabulary_json": Kind(".json", lines(VOCABULARY, '["cat", "dog"]'), Vocabulary.load, mutate_json),
    "vocabulary_txt": Kind(".txt", lines("cat; kitten\ndog\n# no\ncup,\n"), Vocabulary.load, mutate_bytes),
    "names": Kind(".bin", lines("cat; kitten, dog", "(a, b), c"), lambda path: Vocabulary.from_text(
        path.read_bytes().decode("utf-8", "surrogateescape")), mutate_bytes),
    "proposals": Kind(".json", lines(PROPOSALS), read_proposal_file, mutate_json),
    "proposal_pickle": Kind(".pkl", proposal_pickles, PrecomputedProposals, mutate_bytes),
    "classes": Kind(".safetensors", classes, load_classes, mutate_safetensors),
    "embeddings": Kind(".safetensors", embeddings, load_embeddings, mutate_safetensors),
    "plan": Kind(".json", stores, lambda path: read_store(path, "plan.json"), mutate_json),
    "shard": Kind(".bin", shards, lambda path: read_store(path, "shard-00000.safetensors"), mutate_safetensors),
    "checkpoint": Kind(".pth", checkpoints, lambda path: read_checkpoint(str(path)), mutate_zip),
    "pickle": Kind(".pkl", pickles, lambda path: read_checkpoint(str(path)), mutate_bytes),
    "weights": Kind(".safetensors", weights, lambda path: read_checkpoint(str(path)), mutate_safetensors),
    "model_config": Kind(".json", model_configs, read_model_config, mutate_json),
    "run_config": Kind(".yaml", run_configs, read_run_values, mutate_yaml),
    "onnx": Kind(".json", lines(DESCRIPTION), lambda path: read_description(path.read_text("utf-8", "replace"), path),
                 mutate_json),
    "override": Kind(".bin", lines("train.max_iter=3", 'dataset.root="a b"', "optimizer.lr=1e-3", "model.x=[1,2]"),
                     lambda path: apply_overrides(load_config(QUICK), [path.read_bytes().decode("utf-8", "replace")]),
                     mutate_bytes),
    "ncnn": Kind(".param", lines(_NCNN_LIST), read_ncnn_list, mutate_bytes),
    "image": Kind(".img", images, read_image, mutate_bytes),
}  # fmt: skip


# ---------------------------------------------------------------- the campaign


def run(kind: str, number: int, seed: int, keep: Path | None = None) -> tuple[Counter, list[str]]:
    """Read so many mutated files of a kind.

    Returns:
        How many were read, refused, or ended otherwise; and a line for each of the last.
    """
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        before = os.getcwd()
        seeds = KINDS[kind].seeds(_made(folder / "seeds"))
        os.chdir(_made(folder / "here"))
        try:
            for start in range(0, number, CHUNK):
                _chunk(kind, seeds, range(start, min(start + CHUNK, number)), seed, folder, counts, faults, keep)
            if list(folder.rglob("canary")):
                faults.append(f"{kind}: code was run")
        finally:
            os.chdir(before)
    return counts, faults


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def input_of(kind: str, seeds: list[bytes], number: int, seed: int) -> bytes:
    chance = random.Random(f"{kind} {seed} {number}")
    content = chance.choice(seeds)
    return content if number < len(seeds) else KINDS[kind].mutate(content, chance)


def _chunk(kind, seeds, numbers, seed, folder, counts, faults, keep) -> None:
    """In a process of its own; one that dies is followed by another for the inputs behind the one it died of."""
    shared = mmap.mmap(-1, 1 << 20)  # the number of the input that is read, and what came of those before
    done = numbers.start
    while done < numbers.stop:
        shared[:] = bytes(len(shared))
        child = os.fork()
        if child == 0:
            _read_all(kind, seeds, range(done, numbers.stop), seed, folder, shared)
        _, status = os.waitpid(child, 0)
        shared.seek(0)
        outcomes = [line for line in shared.readline().rstrip(b"\x00\n").decode().split("\x01") if line]
        for offset, outcome in enumerate(outcomes):
            what, _, why = outcome.partition("\x02")
            counts[what] += 1
            if what not in ("read", "refused"):
                faults.append(f"{kind} {done + offset}: {what} {why}")
                if keep:
                    (_made(keep) / f"{kind}-{seed}-{done + offset}").write_bytes(
                        input_of(kind, seeds, done + offset, seed)
                    )
        done += len(outcomes)
        if done < numbers.stop and status:
            what = "hang" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM else "crash"
            counts[what] += 1
            faults.append(f"{kind} {done}: {what}, status {status}")
            _keep(keep, kind, seeds, done, seed)
            done += 1


def _keep(folder: Path | None, kind: str, seeds: list[bytes], number: int, seed: int) -> None:
    if folder:
        (_made(folder) / f"{kind}-{seed}-{number}").write_bytes(input_of(kind, seeds, number, seed))


def _read_all(kind, seeds, numbers, seed, folder, shared) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    torch.set_num_threads(1)
    for number in numbers:
        path = _made(folder / "file") / f"x{KINDS[kind].suffix}"
        path.write_bytes(input_of(kind, seeds, number, seed))
        signal.alarm(SECONDS)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                KINDS[kind].read(path)
            outcome = "read"
        except InputError as error:
            told = str(error).strip()
            outcome = "several lines\x02" + told if "\n" in told else "refused"
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            frame = [each for each in frames if "/ovdet/" in each.filename or each is frames[-1]][-1]
            where = f"{frame.filename.rpartition('/ovdet/')[2]}:{frame.lineno}"
            outcome = f"traceback\x02{type(error).__name__} at {where}: {str(error)[:80]}"
        outcome = outcome.replace("\n", "|").replace("\x01", "?")
        signal.alarm(0)
        shared.write(outcome.encode("utf-8", "replace") + b"\x01")
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int, help="inputs of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS), help="out of %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for inputs that were neither read nor refused")
    arguments = parser.parse_args()
    failed = False
    for kind in arguments.kinds.split(","):
        counts, faults = run(kind, arguments.number, arguments.seed, arguments.keep)
        print(f"{kind:16}", dict(counts), flush=True)
        for line, times in Counter(fault.partition(": ")[2] for fault in faults).most_common(12):
            print(f"    {times} x {line}", flush=True)
        failed |= bool(faults)
    sys.exit(failed)


if __name__ == "__main__":
    main()
