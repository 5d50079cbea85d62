"""The detector. Depends on torch, detectron2 and ovdet.losses alone."""
