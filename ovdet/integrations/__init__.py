"""Detections as the types of other libraries; each is imported by the function that needs it."""
