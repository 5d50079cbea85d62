"""Training on detectron2's loop: the vocabulary of base classes in, a checkpoint that carries none out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.config.instantiate import locate
from detectron2.data import MetadataCatalog
from detectron2.engine import AMPTrainer, SimpleTrainer, create_ddp_model, default_writers, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from ovdet.data import check_no_leak
from ovdet.engine.checkpoint import SafeCheckpointer
from ovdet.engine.evaluate import do_test, set_names
from ovdet.engine.hooks import Autocast, GradientClipping
from ovdet.engine.options import TrainOptions
from ovdet.errors import InputError
from ovdet.text import NameEmbedder

logger = logging.getLogger(__name__)


def build_options(config: DictConfig) -> TrainOptions:
    """`config.train` as the dataclass that it names.

    Raises:
        InputError: an option that TrainOptions does not have, or a value it refuses.
    """
    try:
        return instantiate(config.train)
    except TypeError as error:
        raise InputError(f"expected the options of TrainOptions under `train`, got {error}") from error


def prepare_dataset(config: DictConfig) -> None:
    """Run the config's own preparation (the synthetic data set draws itself)."""
    if "prepare" in config.dataset:
        instantiate(config.dataset.prepare)


def training_classes(dataset_name: str) -> list[str]:
    """The class names of a registered dataset, in the order of its contiguous ids."""
    return list(MetadataCatalog.get(dataset_name).thing_classes)


def build_detector(config: DictConfig, device: torch.device) -> tuple[nn.Module, NameEmbedder]:
    """The model on its device, and what embeds names for it."""
    return instantiate(config.model).to(device), instantiate(config.name_embedder)


def text_space(config: DictConfig, embed_names: NameEmbedder) -> dict[str, Any]:
    """What a checkpoint's header says of the space that its regions live in."""
    return {
        "teacher": config.teacher.name,
        "width": config.teacher.width,
        "fingerprint": embed_names.fingerprint,
    }


def build_train_loader(config: DictConfig) -> Any:
    """The training loader, behind the leak check.

    Raises:
        InputError: annotations, names or stored regions of novel classes would reach training.
    """
    node = config.dataloader.train
    dataset_name = instantiate(node.dataset.names)
    metadata = MetadataCatalog.get(dataset_name)
    dicts = instantiate(node.dataset)
    check_no_leak(dicts, metadata, metadata.thing_classes)
    options = {key: instantiate(node[key]) for key in node if key not in ("_target_", "dataset")}
    store = options["mapper"].region_store
    if store is not None:
        store.check(teacher=config.teacher.name, width=config.teacher.width, novel_classes=metadata.novel_classes)
    target = node._target_
    logger.info("training on %d photos, %d base classes", len(dicts), len(metadata.thing_classes))
    return (locate(target) if isinstance(target, str) else target)(dataset=dicts, **options)


def build_trainer(
    options: TrainOptions, model: nn.Module, loader: Any, optimizer: torch.optim.Optimizer
) -> TrainerBase:
    """A plain trainer, or one in mixed precision: bfloat16 where the device has it, else scaled float16."""
    device = options.torch_device()
    if not options.amp:
        return SimpleTrainer(model, loader, optimizer)
    if device.type == "cpu" or torch.cuda.is_bf16_supported():
        return SimpleTrainer(Autocast(model, device.type, torch.bfloat16), loader, optimizer)
    return AMPTrainer(model, loader, optimizer)


def do_train(config: DictConfig, *, resume: bool = False) -> Mapping[str, Any]:
    """Train as the config says, evaluate at the end, leave checkpoints in `config.train.output_dir`.

    Args:
        config: with model, name_embedder, teacher, dataset, dataloader, optimizer, lr_multiplier, train.
        resume: go on from the last checkpoint of the output folder, if there is one.

    Returns:
        The last evaluation's results on the main process.
    """
    options = build_options(config)
    prepare_dataset(config)
    loader = build_train_loader(config)
    model, embed_names = build_detector(config, options.torch_device())
    names = training_classes(instantiate(config.dataloader.train.dataset.names))
    set_names(model, names, embed_names, names)

    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    trainer = build_trainer(options, create_ddp_model(model, broadcast_buffers=False), loader, optimizer)
    header = {**text_space(config, embed_names), "training_classes": names}
    checkpointer = SafeCheckpointer(model, options.output_dir, header=header, trainer=trainer)
    results: dict[str, Any] = {}

    def evaluate() -> Mapping[str, Any]:
        results.update(do_test(config, model, embed_names))
        return results

    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            GradientClipping(options.clip_gradient_norm) if options.clip_gradient_norm > 0 else None,
            hooks.LRScheduler(scheduler=instantiate(config.lr_multiplier)),
            hooks.PeriodicCheckpointer(
                checkpointer, options.checkpoint_period, options.max_iter, options.max_checkpoints
            )
            if comm.is_main_process()
            else None,
            hooks.EvalHook(options.eval_period, evaluate),
            hooks.PeriodicWriter(default_writers(options.output_dir, options.max_iter), options.log_period)
            if comm.is_main_process()
            else None,
        ]
    )
    checkpointer.resume_or_load(options.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    if start >= options.max_iter:
        raise InputError(f"expected steps to train, {options.output_dir} is at step {start} of {options.max_iter}")
    trainer.train(start, options.max_iter)
    return results


def load_detector(config: DictConfig, weights: str = "") -> tuple[nn.Module, NameEmbedder, dict[str, Any]]:
    """A trained detector, ready for a vocabulary, in evaluation mode.

    Args:
        config: as for do_train.
        weights: a checkpoint; "" takes `config.train.init_checkpoint`, else the output folder's last one.

    Returns:
        The model, what embeds names for it, and the checkpoint's header.

    Raises:
        InputError: there is no checkpoint, or it does not fit.
    """
    options = build_options(config)
    weights = (
        weights or options.init_checkpoint or SafeCheckpointer(nn.Identity(), options.output_dir).get_checkpoint_file()
    )
    if not weights:
        raise InputError(
            f"expected weights: train.init_checkpoint=FILE, or a checkpoint of a training run in {options.output_dir}"
        )
    model, embed_names = build_detector(config, options.torch_device())
    header = SafeCheckpointer(model, header=text_space(config, embed_names)).load_weights(weights)
    return model.eval(), embed_names, header
