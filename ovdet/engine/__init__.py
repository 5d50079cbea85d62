"""Training and evaluation on detectron2's engine. Depends on everything below it."""
