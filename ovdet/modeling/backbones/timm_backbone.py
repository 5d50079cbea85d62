"""Any timm image classifier as a detectron2 backbone, to go below detectron2's FPN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import timm
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from ovdet.errors import InputError
from ovdet.imagenet_lite import fold_batch_norms
from ovdet.modeling.backbones.same_padding import pad_evenly
from ovdet.packable import packable


@packable
class TimmBackbone(Backbone):
    """Feature maps of a timm model, named by their stride: "stride4", "stride8", ..."""

    def __init__(
        self,
        name: str,
        *,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        weights: Mapping[str, Tensor] | None = None,
        freeze_stages: int = 0,
        freeze_depthwise: bool = False,
        frozen_norm: bool = True,
        folded_norm: bool = False,
    ) -> None:
        """
        Args:
            name: timm's model name.
            out_indices: timm's feature levels to give out.
            weights: a state dict in timm's key names; entries of the classifier are passed over. None: random.
            freeze_stages: the stem and the first `freeze_stages` - 1 stages are not trained; 0 trains all.
            freeze_depthwise: depthwise convolutions are not trained: on CPUs the gradient of their few weights costs
                thirty times that of their input (PyTorch 2.11, bfloat16), more than all the rest.
            frozen_norm: batch norm keeps its statistics and its affine part (small batches, as in detectron2).
            folded_norm: batch norms are made part of the convolutions before them, which is faster and says the same;
                for EfficientNets. What they add, the convolutions' biases, is not trained then.

        Raises:
            InputError: timm knows no such model, or the weights lack some of its entries.
        """
        super().__init__()
        self.name, self.folded_norm = name, folded_norm
        if not timm.is_model(name):
            near = ", ".join(timm.list_models(f"*{name.split('_')[-1]}*")[:5]) or "see timm.list_models()"
            raise InputError(f"expected the name of a timm model, got {name!r}; near ones: {near}")
        self.body = timm.create_model(name, features_only=True, pretrained=False, out_indices=tuple(out_indices))
        if weights is not None:
            self._load(name, weights)
        if folded_norm:
            fold_batch_norms(self.body.eval())
        elif frozen_norm:
            self.body = freeze_batch_norm_2d(self.body)  # timm's own: its norm layers hold the activation too
        pad_evenly(self.body)
        self._freeze(freeze_stages)
        if freeze_depthwise:
            self._freeze_depthwise()
        info = self.body.feature_info
        self._shapes = {
            f"stride{stride}": ShapeSpec(channels=channels, stride=stride)
            for channels, stride in zip(info.channels(), info.reduction(), strict=True)
        }

    def _load(self, name: str, weights: Mapping[str, Tensor]) -> None:
        own = self.body.state_dict()
        odd = [key for key, value in own.items() if key not in weights or weights[key].shape != value.shape]
        if odd:
            raise InputError(f"expected weights of timm's {name}, got none that fit {odd[0]} (+{len(odd) - 1} more)")
        self.body.load_state_dict({key: weights[key] for key in own})

    def _freeze(self, stages: int) -> None:
        """The stem is what comes before timm's `blocks` / `layerN` / `stages_N`."""
        groups: list[list[nn.Module]] = [[]]
        for key, child in self.body.named_children():
            if key == "blocks":
                groups.extend([block] for block in child.children())
            elif key.startswith(("layer", "stages")):
                groups.append([child])
            else:
                groups[0].append(child)
        if stages and len(groups) == 1:
            raise InputError(
                f"expected freeze_stages 0 for {self.name}, whose stages have names unknown here, got {stages}"
            )
        for group in groups[:stages]:
            for module in group:
                module.requires_grad_(False)

    def _freeze_depthwise(self) -> None:
        for module in self.body.modules():
            if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
                module.requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> maps (N, C, H / stride, W / stride) by name."""
        return dict(zip(self._shapes, self.body(images), strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes
