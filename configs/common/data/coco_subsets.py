"""Any COCO-format data with base / novel / ignored subsets; `dataset` names the files (see datasets/README.md)."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data import transforms as T

from ovdet.data.dataset import register_coco_subsets
from ovdet.data.loader import build_resumable_loader
from ovdet.data.mapper import OpenVocabMapper
from ovdet.evaluation.evaluator import build_evaluator

_split = dict(split="${dataset.split}", image_root="${dataset.images}")
dataloader = dict(
    train=L(build_resumable_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names=L(register_coco_subsets)(
                name="${dataset.name}_train", json_file="${dataset.train}", subsets=["base"], is_train=True, **_split
            ),
        ),
        mapper=L(OpenVocabMapper)(
            is_train=True, augmentations=[], image_format="${model.input_format}", region_store=None, max_regions=300
        ),
        total_batch_size=16,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names=L(register_coco_subsets)(
                name="${dataset.name}_val", json_file="${dataset.val}", subsets=["base", "novel"], **_split
            ),
            filter_empty=False,
        ),
        mapper=L(OpenVocabMapper)(
            is_train=False, augmentations=[], image_format="${model.input_format}", keep_original=False
        ),
        num_workers=4,
    ),
    evaluator=L(build_evaluator)(dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}/evaluation"),
)
dataloader["train"]["mapper"]["augmentations"] = [L(T.RandomFlip)(horizontal=True)]
