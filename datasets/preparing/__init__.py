"""Official annotation files of data sets to COCO-format jsons, with the counts that they must have."""
