"""Time ovdet-lite beside other detectors in one run; --all also evaluation, vocabularies, teacher, training step.

ovdet benchmark
ovdet benchmark --all --yolox yolox_nano.onnx --runtimes onnx openvino --openvino-int8 lite_int8.onnx
    --output bench.json                                              (under ten minutes)
ovdet benchmark --parts start stream --output more.json              (these alone)
ovdet benchmark --page docs/benchmarks.md bench.json gpu.json        (writes the page from such files)
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from ovdet.benchmarks.parts import MEMORY, PARTS
from ovdet.errors import InputError
from ovdet.files import require_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="*", metavar="F.json", help="with --page: of earlier runs")
    add("--all", action="store_true", help="everything; without it the detectors alone")
    names = [*PARTS, MEMORY]
    parts = f"some of these alone: {', '.join(names)}; {MEMORY} takes minutes and is no part of --all"
    add("--parts", nargs="+", choices=names, default=[], metavar="PART", help=parts)
    add("--output", metavar="F.json", help="write what was measured there too")
    add("--page", metavar="F.md", help="write a page from files instead of measuring")
    add("--rounds", type=int, default=5, metavar="N", help="timed runs of each (default: %(default)s)")
    add("--yolox", default="", metavar="F.onnx", help="YOLOX-nano as ONNX, one more peer")
    runtimes = "ovdet-lite by these too; it is exported the first time, which takes a minute or more"
    add("--runtimes", nargs="+", choices=("onnx", "openvino"), default=[], help=runtimes)
    int8 = "a file of ovdet-lite by `ovdet export --format openvino_int8`, run by OpenVINO too"
    add("--openvino-int8", default="", metavar="F.onnx", help=int8)
    add("--device", default="cpu", metavar="D", help="cpu, cuda, cuda:1, ... (default: cpu)")


def run(arguments: argparse.Namespace) -> None:
    if arguments.rounds < 1:
        raise InputError(f"expected --rounds of at least 1, got {arguments.rounds}")
    if bool(arguments.page) != bool(arguments.files):
        raise InputError("expected --page F.md and files of earlier runs, or neither")
    if arguments.all and arguments.parts:
        raise InputError("expected --all or --parts, got both")
    from ovdet.benchmarks import suite
    from ovdet.device import parse_device
    from ovdet.files import atomic_write
    from ovdet.memory import reuse_freed_memory

    if arguments.page:
        content = suite.page([suite.read_report(file) for file in arguments.files])
        atomic_write(require_path(arguments.page), content.encode())
        return
    for file in (arguments.yolox, arguments.openvino_int8):
        if file and not Path(file).is_file():
            raise InputError(f"expected an ONNX file, {file} does not exist")
    if arguments.output and not Path(arguments.output).absolute().parent.is_dir():
        raise InputError(f"expected a folder to write to, got {arguments.output}")
    parse_device(arguments.device)
    reuse_freed_memory()
    words = [Path(word).name if Path(word).suffix in (".onnx", ".json") else word for word in sys.argv[1:]]
    report = suite.measure(
        parts=tuple(PARTS) if arguments.all else arguments.parts,
        detectors=not arguments.parts,
        rounds=arguments.rounds,
        device=arguments.device,
        yolox_file=arguments.yolox,
        runtimes=arguments.runtimes,
        int8_file=arguments.openvino_int8,
        command=shlex.join(["ovdet", *words]),
    )
    if arguments.output:
        suite.write_report(report, arguments.output)
