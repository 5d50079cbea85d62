"""A predictor's `stream` for stand-ins that detect on one photo at a time."""

from functools import partial

from ovdet.inference.stream import log_failure, photos_of, stream_photos


def stream_of(detect, source, *, batch_size=1, on_failure=log_failure, **limits):
    """`detect(rgb, **limits)` on each photo."""
    detect = partial(detect, **limits)
    options = dict(batch_size=batch_size, on_failure=on_failure)
    return stream_photos(photos_of(source), lambda rgb: rgb, lambda batch: list(map(detect, batch)), **options)


class Streaming:
    """For stand-ins that are called with one photo."""

    def stream(self, source, **options):
        return stream_of(self, source, **options)
