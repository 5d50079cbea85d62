"""The parts of `ovdet benchmark`: their names, titles and what each compares. Nothing here takes time to import."""

from __future__ import annotations

PARTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    # module: title, what is compared, its arguments
    "start": (
        "From the shell to the first box",
        "The fastest of the rounds, clock time of whole processes; the peer is a bare `import torch, torchvision`.",
        (),
    ),
    "stream": (
        "A folder of photos",
        "`predictor.stream`, files read and resized ahead. The peer is calls one by one, `limit` the network on photos "
        "that are ready; photos a second of it and of that.",
        (),
    ),
    "evaluation": (
        "Evaluation",
        "From boxes in memory to each class's AP. The peer is pycocotools, `limit` is hotcoco alone.",
        ("--images", "200"),
    ),
    "postprocess": (
        "Post-processing",
        "From 1000 boxes and their scores to 300 detections. The peer is detectron2's `fast_rcnn_inference`, whose "
        "detections are bit-equal; `limit` is a bare top-k over the scores.",
        (),
    ),
    "vocabulary": (
        "Vocabularies",
        "From 300 region embeddings to the candidates for detections. The peer is a softmax and a top-k over all "
        "scores, `limit` the bare matrix product in chunks.",
        ("--largest", "100000"),
    ),
    "teacher": (
        "The teacher on regions",
        "Embeddings of regions by `conse`. The peer cuts, resizes and embeds one region after the other; `limit` is "
        "the teacher's forward pass alone.",
        ("--photos", "1"),
    ),
    "published": (
        "A published detector",
        "Detic's R50 (CenterNet2 proposals, cascade) on one photo of 480 x 640. The peer is detectron2's Mask R-CNN "
        "R50-FPN; `limit` is backbone, pyramid and proposals alone. Weights are random: the peer finds nothing, "
        "draws no mask, and is timed so and with as many masks as ours.",
        (),
    ),
    "train": (
        "A training step",
        "Forward, backward and optimizer. The peer is detectron2's Faster R-CNN with the same backbone, `limit` "
        "backbone and pyramid, forward and backward; photos a second of it and of that.",
        (),
    ),
    "extraction": (
        "Extraction into a region store",
        "From files to shards: proposals by ovdet-lite, embeddings by `conse`. `limit` is both networks alone on "
        "decoded photos and crops; photos a second of it and of that.",
        ("--photos", "2"),
    ),
}
MEMORY = "memory"  # minutes, so it is no part of --all
MEMORY_TEXTS = (
    "Memory",
    "Peak resident memory of whole processes, each beside a limit that it must not go beyond: `tools/peak_memory.py` "
    "ends with exit code 1 where one does.",
)
