"""A detector at test time as CUDA graphs, one for each padded size, batch size and choice of classes.

A graph is recorded once and then runs as one launch, whatever it consists of. The program waits for the GPU once a
batch, for its detections. modeling/fixed_shapes.py is what is recorded.

Shape letters: N images, H, W of the network's input, M detections of each image.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.errors import error_summary
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.fixed_shapes import FixedDetections, FixedShapeDetection, is_askable

logger = logging.getLogger(__name__)

MAX_GRAPHS = 32  # of one choice of classes; the one that was not used for the longest time goes
_WARM_UPS = 3  # before recording: libraries choose their kernels and make their handles

Run = Callable[[], FixedDetections]
Record = Callable[[Run], tuple[Callable[[], None], FixedDetections]]  # -> what runs it anew, and where it writes


class CudaGraph:
    """Records what runs on a CUDA device; all graphs of one recorder share their memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> tuple[Callable[[], None], FixedDetections]:
        """-> what runs it anew on whatever its inputs then hold, and its outputs, which that fills."""
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                outputs = run()
        return graph.replay, outputs


class _Graph(NamedTuple):
    """A recorded graph, what it reads, and what it writes."""

    replay: Callable[[], None]
    images: Tensor  # (N, 3, H, W) uint8
    sizes: Tensor  # (N, 2) float32, height and width
    outputs: FixedDetections


class GraphedDetector:
    """A detector's forward at test time, by graphs where there are some; detections are on the CPU.

    The first batch of a kind runs as before, the second one's graph is recorded. So do images whose detections need
    more than the graph's rounds and candidates, classes learned from examples, and more names than one matrix holds.
    Any number of threads may share it.
    """

    def __init__(self, detector: OpenVocabRCNN, *, record: Record, dtype: torch.dtype | None = None) -> None:
        """
        Args:
            detector: in evaluation mode, one for which `why_not_fixed` is ""; what its forward is now runs what no
                graph does.
            record: see `Record`; a CudaGraph on a GPU.
            dtype: of mixed precision; None for float32.
        """
        self._detector, self._eager = detector, detector.forward
        self._record, self._dtype = record, dtype
        self._detect = FixedShapeDetection(detector, dtype)
        self._graphs: WeakKeyDictionary[ClassEmbeddings, OrderedDict] = WeakKeyDictionary()
        self._lock = threading.Lock()  # of the graphs, what they read and what they write
        self._failed = False

    def __call__(
        self, batched_inputs: Sequence[dict], *, classes: ClassEmbeddings, mask_thresholds: Tensor | None = None
    ) -> list[dict]:
        """As OpenVocabRCNN's at test time."""
        images = [each["image"] for each in batched_inputs]
        is_plain = all(image.dtype == torch.uint8 for image in images) and is_askable(self._detector, classes)
        found = self._run(images, classes) if is_plain and not self._failed else None
        if found is None:
            return self._eager(batched_inputs, classes=classes)
        sizes = [tuple(image.shape[1:]) for image in images]
        instances = [self._instances(found, k, size, classes) for k, size in enumerate(sizes)]
        outputs = self._detector._postprocess(instances, batched_inputs, sizes)
        for k, is_exact in enumerate(found.is_exact[: len(outputs)].tolist()):
            if not is_exact:
                outputs[k] = self._eager([batched_inputs[k]], classes=classes)[0]
        return outputs

    def _run(self, images: Sequence[Tensor], classes: ClassEmbeddings) -> FixedDetections | None:
        """Run the graph of these images (3, height, width): its detections on the CPU, None where there is none yet."""
        step = max(self._detector.backbone.size_divisibility, 1)
        sides = (-(-max(each.shape[side] for each in images) // step) * step for side in (1, 2))
        shape = (_power_of_two(len(images)), 3, *sides)
        with self._lock, torch.inference_mode():
            graphs = self._graphs.setdefault(classes, OrderedDict())
            if shape not in graphs:
                graphs[shape] = None
                if len(graphs) > MAX_GRAPHS:
                    graphs.popitem(last=False)
                return None
            graphs.move_to_end(shape)
            graph = graphs[shape] or self._recorded(shape, classes)
            if graph is None:
                return None
            graphs[shape] = graph
            _fill(graph, images)
            graph.replay()
            return FixedDetections(*(part.cpu() for part in graph.outputs))

    def _recorded(self, shape: tuple[int, ...], classes: ClassEmbeddings) -> _Graph | None:
        """A graph for such images; None where it cannot be recorded, now or ever."""
        device = self._detector.device
        classes = classes.to(device)
        images = torch.zeros(shape, dtype=torch.uint8, device=device)
        sizes = torch.ones(shape[0], 2, device=device)
        autocast = torch.autocast(device.type, self._dtype, enabled=self._dtype is not None, cache_enabled=False)

        def run() -> FixedDetections:
            with autocast:
                return self._detect(images, sizes, classes)

        try:
            replay, outputs = self._record(run)
            return _Graph(replay, images, sizes, outputs)
        except Exception as error:  # no memory for it, a kernel that cannot be recorded: there is no list
            logger.warning("CUDA graphs failed, going on without them: %s", error_summary(error))
            self._failed = True
            return None

    def _instances(
        self, found: FixedDetections, index: int, size: tuple[int, int], classes: ClassEmbeddings
    ) -> Instances:
        """One image's detections, with calibrated scores."""
        rows = found.scores[index] >= 0
        instances = Instances(size)
        instances.pred_boxes = Boxes(found.boxes[index][rows])
        instances.scores, instances.pred_classes = found.scores[index][rows], found.classes[index][rows]
        calibration = self._detector.roi_heads.calibration
        return instances if calibration is None else calibration.of_instances(instances, classes.to("cpu"))


def _fill(graph: _Graph, images: Sequence[Tensor]) -> None:
    """Bring images and their sizes to where the graph reads them."""
    batch = torch.zeros(graph.images.shape, dtype=torch.uint8, pin_memory=graph.images.is_cuda)
    sizes = torch.ones(graph.sizes.shape, pin_memory=graph.images.is_cuda)
    for k, image in enumerate(images):
        batch[k, :, : image.shape[1], : image.shape[2]] = image
        sizes[k] = torch.tensor(image.shape[1:])
    graph.images.copy_(batch, non_blocking=True)
    graph.sizes.copy_(sizes, non_blocking=True)


def _power_of_two(number: int) -> int:
    """The lowest power of two that is not below: few batch sizes, few graphs."""
    return 1 << (number - 1).bit_length()
