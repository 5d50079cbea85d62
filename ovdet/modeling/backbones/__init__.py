"""Backbones that detectron2 lacks."""
