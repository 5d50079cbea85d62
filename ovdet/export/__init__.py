"""A trained detector as a file that needs neither detectron2 nor this package, and back from it into the predictor."""
