"""Boxes of some names, photos of others: Detic's max-size loss (arXiv:2201.02605) on drawn shapes.

ovdet train --config-file quick/image_labels
One of three photos has no box but a label. Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.data.mixture import DataSet

from ..common.mixture import image_labels, labeled_photos, partial_labels, train_on
from ..common.models.lite import model
from .vild import dataloader, dataset, lr_multiplier, name_embedder, optimizer, teacher, train

dataset.update(name="quick_image_labels", root="output/quick/data_image_labels")
dataset.prepare.num_labeled = 40
_boxed = L(DataSet)(name="boxed", json_file="${dataset.train}", image_root="${dataset.images}", share=2)
_boxed.update(split="${dataset.split}", is_exhaustive=True)
train_on(dataloader, [_boxed, labeled_photos("labeled", 1, "${dataset.root}/labeled")], threshold=0.0)
model = image_labels(partial_labels(model))
train.update(output_dir="output/quick/image_labels", max_iter=300)
