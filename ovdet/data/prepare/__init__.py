"""From the official files of the protocols' data sets to what `register_builtin` reads. No torch, no detectron2."""
