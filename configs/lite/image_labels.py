"""Photos by class beside boxes, for names of which no box is at hand: Detic's max-size loss (arXiv:2201.02605).

ovdet train --config-file lite/image_labels dataset.root=PATH dataset.labeled=FOLDER
FOLDER has a sub-folder of photos for each class; or dataset.labels=FILE is a json of labels by photo. Three of four
photos have boxes. Requirements and figures: configs/README.md.
"""

from detectron2.config import LazyCall as L

from ovdet.data.mixture import DataSet

from ..common.lite_run import BASE_DETECTOR
from ..common.mixture import image_labels, labeled_photos, partial_labels, train_on
from .ovdet_lite import dataloader, dataset, lr_multiplier, model, name_embedder, optimizer, teacher, train

dataset.update(name="lite_image_labels", labeled="${.root}/labeled", labels=None)
_boxed = L(DataSet)(name="boxed", json_file="${dataset.train}", image_root="${dataset.images}", share=3)
_boxed.update(split="${dataset.split}", is_exhaustive=True)
train_on(dataloader, [_boxed, labeled_photos("labeled", 1, "${dataset.labeled}", "${dataset.labels}")])
dataloader.train.total_batch_size = 4

model = image_labels(partial_labels(model))
model.region_source.max_regions = 16
optimizer.lr = 3e-4
train.update(init_checkpoint=BASE_DETECTOR, max_iter=1000, output_dir="output/lite/image_labels")
