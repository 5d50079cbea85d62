"""Names of what training data say of a photo beyond detectron2's own fields: mappers write it, models read it."""

from __future__ import annotations

SCORES_FIELD = "gt_scores"  # of a photo's Instances: 1, or a pseudo-label's score
SET_FIELD = "gt_set"  # of a photo's Instances: which set of a mixture it is of, once for each object
SET_KEY = "set_index"  # of a dataset dict and of an input: which set of a mixture it is of
LABELS_KEY = "image_labels"  # of a dataset dict and of an input: the classes of a photo without boxes
