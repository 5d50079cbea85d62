"""Training on detectron2's loop: the vocabulary of base classes in, a checkpoint that carries none out."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.config.instantiate import locate
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.engine import AMPTrainer, SimpleTrainer, create_ddp_model, default_writers, hooks
from detectron2.engine.train_loop import HookBase, TrainerBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from omegaconf import DictConfig
from torch import Tensor, nn

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.data.coco import listed
from ovdet.data.dataset import training_classes
from ovdet.data.leakage import LeakReport, check_no_leak, find_leaks
from ovdet.data.loader import build_resumable_loader
from ovdet.device import half_type
from ovdet.engine.checkpoint import SafeCheckpointer, classes_of_both, find_parts, text_space
from ovdet.engine.config import plain_values, prepare_dataset, read_run_values, save_config
from ovdet.engine.evaluate import classes_of, do_test
from ovdet.engine.feeds import what_feeds
from ovdet.engine.hooks import (
    Autocast,
    FrozenStatistics,
    GradientClipping,
    KeepLastCheckpoints,
    SeededSteps,
    StopAtSigterm,
)
from ovdet.engine.options import TrainOptions, build_options
from ovdet.engine.resume import (
    InitialWeights,
    RunFacts,
    changed_options,
    check_ranks_agree,
    initial_weights,
    locked,
    remember_torchrun,
    resume_run,
)
from ovdet.engine.show import ShowPhotos, photos_to_show
from ovdet.errors import InputError
from ovdet.files import atomic_write, new_folder
from ovdet.objectives.base import CAPTIONS, PAIRS
from ovdet.text.classes import build_classes

logger = logging.getLogger(__name__)

_OF_MAPPER = {CAPTIONS: "captions", PAIRS: "sentences"}  # what the mapper brings for what an objective needs


def check_files(config: DictConfig, *, resume: bool = False) -> None:
    """Refuse a training whose files are not there, before anything is written.

    Args:
        config: as for do_train.
        resume: its first weights are not needed any more.

    Raises:
        InputError: a file or folder does not exist.
    """
    keys = [] if "prepare" in config.dataset else ["train", "val", "split"]
    if config.dataloader.train.mapper.get("region_store"):
        keys.append("region_store")
    if any(config.dataloader.train.mapper.get(key) for key in _OF_MAPPER.values()):
        keys.append("captions")
    keys += [key for key in ("proposals_train", "proposals_val") if key in config.dataset]
    named = {f"dataset.{key}": config.dataset.get(key) for key in keys}
    if not resume:
        named["train.init_checkpoint"] = build_options(config).init_checkpoint
    for option, path in named.items():
        if path and "://" not in path and not Path(path).exists():
            how = " (ovdet extract writes one)" if option == "dataset.region_store" else ""
            if Path(path).name == "model_final.pth":
                how = f" (the training with train.output_dir={Path(path).parent} writes it)"
            raise InputError(f"expected {option} to be there, {path} does not exist{how}")


def build_train_loader(
    config: DictConfig, space: Mapping[str, Any], first: InitialWeights, seed: int
) -> tuple[Any, LeakReport]:
    """The training loader, behind the leak check, and what that found.

    Args:
        config: as for do_train. A `sampler` is a function of dataset dicts and seed (see data/samplers.py).
        space: see text_space; stored regions must be of it.
        first: what training begins or goes on with.
        seed: of the order of the photos.

    Raises:
        InputError: annotations, names or stored regions of novel classes would reach training, the store is of another
            space, proposals or captions are of other photos, or the batch cannot be shared out among the GPUs.
    """
    node = config.dataloader.train
    batch, processes = node.total_batch_size, comm.get_world_size()
    if batch < 1 or batch % processes:
        of = f" that {processes} processes can share" if processes > 1 else ""
        raise InputError(f"expected dataloader.train.total_batch_size of at least 1{of}, got {batch}")
    dataset_name = instantiate(node.dataset.names)
    metadata = MetadataCatalog.get(dataset_name)
    dicts = instantiate(node.dataset)
    options = {key: instantiate(node[key]) for key in node if key not in ("_target_", "dataset")}
    store, proposals = options["mapper"].region_store, options["mapper"].proposals
    source = proposals if store is None else store
    report = report_leaks(config, dicts, metadata, None if source is None else source.header, first)
    for part in (proposals, *(getattr(options["mapper"], key) for key in _OF_MAPPER.values())):
        if part is not None:
            part.check([record["image_id"] for record in dicts])
    if store is not None:
        known = {key: value for key, value in space.items() if value}
        store.check(**known, images=dicts)
    build = locate(node._target_) if isinstance(node._target_, str) else node._target_
    build = build_resumable_loader if build is build_detection_train_loader else build  # of configs from before 0.2
    logger.info("training on %d photos, %d base classes", len(dicts), len(metadata.thing_classes))
    _tell_without_boxes(metadata)
    return build(dataset=dicts, seed=seed, start=first.step, **options), report


def _tell_without_boxes(metadata: Any) -> None:
    """A warning of a data set's names without a box, as a json's list of COCO's names may have: they are unlearned."""
    counts = metadata.get("class_image_count") if metadata.get("mixture") is None else None
    empty = [name for name, each in zip(metadata.thing_classes, counts or (), strict=False) if not each["image_count"]]
    if 0 < len(empty) < len(metadata.thing_classes):
        numbers = len(empty), len(metadata.thing_classes)
        logger.warning("%d of the %d names have no box, so that all regions are what they are not; "
                       "leave them out of the json: %s", *numbers, listed(empty))  # fmt: skip


def report_leaks(
    config: DictConfig,
    dicts: list[dict[str, Any]],
    metadata: Any,
    proposals: Mapping[str, Any] | None,
    first: InitialWeights,
) -> LeakReport:
    """Log what the run will see, and stop where novel classes leak.

    A run that is stopped for leaks leaves leak_report.json with them in the output folder; one that begins writes it.

    Args:
        config: as for do_train; its test set is read for its novel classes and for photos that are in both sets.
        dicts: of the training set.
        metadata: of the training set.
        proposals: the header of the region store, if one is used.
        first: see initial_weights.

    Raises:
        InputError: annotations, names, proposals or initial weights of novel classes would reach training; or what is
            wrong with the test set or the initial weights.
    """
    test_name = instantiate(config.dataloader.test.dataset.names)
    test_dicts = DatasetCatalog.get(test_name)
    report = find_leaks(
        dicts,
        metadata,
        vocabulary=metadata.thing_classes,
        proposals=proposals,
        weights_source=first.source + (" (which classes they know they do not say)" if first.classes is None else ""),
        weights_classes=first.classes or (),
        test_dicts=test_dicts,
        test_novel=MetadataCatalog.get(test_name).get("novel_classes", ()),
    )
    if comm.is_main_process():
        logger.info("what training sees (leak_report.json in the output folder):\n%s", report.table())
    if report.shared_photos:
        logger.warning("%d of the %d test photos are in the training set too, named in leak_report.json",
                       len(report.shared_photos), report.num_test_photos)  # fmt: skip
    try:
        check_no_leak(report)
    except InputError:
        if comm.is_main_process() and not first.step:
            _write_report(config, report)
        raise
    return report


def _write_report(config: DictConfig, report: LeakReport) -> None:
    content = json.dumps(report.as_dict(), indent=1) + "\n"
    atomic_write(Path(config.train.output_dir) / "leak_report.json", content.encode())


def build_trainer(
    options: TrainOptions, model: nn.Module, loader: Any, optimizer: torch.optim.Optimizer
) -> TrainerBase:
    """A plain trainer, or one in mixed precision: bfloat16 where the device has it, else scaled float16.

    On a device that has neither, `train.amp` changes nothing but a line in the log.
    """
    device = options.torch_device()
    half = half_type(device) if options.amp else None
    if options.amp and half is None:
        logger.warning("train.amp: this %s computes bfloat16 slowly, training in float32", device.type)
    if half is None:
        return SimpleTrainer(model, loader, optimizer)
    if half is torch.bfloat16:
        return SimpleTrainer(Autocast(model, device.type, half), loader, optimizer)
    return AMPTrainer(model, loader, optimizer)


class AskedFor(nn.Module):
    """A detector and the classes that it is asked for: what a training loop calls with a batch alone."""

    def __init__(self, model: nn.Module, classes: ClassEmbeddings) -> None:
        super().__init__()
        self.model = model
        self.classes = classes

    def forward(self, batch: list[dict]) -> Mapping[str, Tensor]:
        """As the detector's."""
        return self.model(batch, classes=self.classes)


def check_needs(config: DictConfig, model: nn.Module) -> None:
    """Refuse objectives that read of photos what the data do not bring, before the first step.

    Raises:
        InputError: an objective needs captions, and the mapper has none.
    """
    for objective in getattr(model.roi_heads, "objectives", ()):
        for need in objective.needs & _OF_MAPPER.keys():
            if not config.dataloader.train.mapper.get(_OF_MAPPER[need]):
                raise InputError(
                    f"expected dataloader.train.mapper.{_OF_MAPPER[need]} with an objective that needs {need}, "
                    f"{type(objective).__name__}, got none"
                )


def _parts(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def freeze_parts(model: nn.Module, parts: str) -> list[nn.Module]:
    """Take parts of a model out of training.

    Args:
        model: of which something must be left to train.
        parts: submodules by their names, commas between; "" for none.

    Returns:
        These submodules.

    Raises:
        InputError: the model has no such part, or nothing would be left.
    """
    frozen = list(find_parts(model, _parts(parts), "train.freeze"))
    for part in frozen:
        part.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"expected something left to train, train.freeze={parts} leaves nothing")
    return frozen


def do_train(config: DictConfig, *, resume: bool = False) -> Mapping[str, Any]:
    """Train as the config says, evaluate at the end, leave checkpoints in `config.train.output_dir`.

    Args:
        config: with model, name_embedder, teacher, dataset, dataloader, optimizer, lr_multiplier, train.
        resume: go on from the last checkpoint of the output folder, if there is one, as if there had been no
            interruption: on a CPU the weights at the end are the same to the bit.

    Returns:
        The last evaluation's results on the main process.

    Raises:
        InputError: another process trains in the output folder; data, weights or options cannot be used; or what is
            resumed was another run. Nothing of an older run is replaced then.
    """
    options = build_options(config)
    if not comm.is_main_process():
        return _train(config, options, resume)
    with new_folder(options.output_dir), locked(options.output_dir):
        return _train(config, options, resume)


def _train(config: DictConfig, options: TrainOptions, resume: bool) -> Mapping[str, Any]:
    as_given = copy.deepcopy(config)  # the model becomes one of the optimizer's arguments
    # data, model, optimizer
    prepare_dataset(config)
    embed_names = instantiate(config.name_embedder)
    space = text_space(config, embed_names)
    first = _first_weights(options, resume)
    seed = _seed(options, first)
    seed_all_rng(seed + comm.get_rank())  # of initial weights
    loader, leaks = build_train_loader(config, space, first, seed)
    model = instantiate(config.model).to(options.torch_device())
    check_needs(config, model)
    frozen = freeze_parts(model, options.freeze)
    dataset_name = instantiate(config.dataloader.train.dataset.names)
    logger.info("what feeds this run:\n%s", what_feeds(config, model, options, dataset_name))
    names = training_classes(dataset_name)
    classes = build_classes(names, embed_names, base_classes=names)
    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    devices = {} if options.torch_device().type == "cuda" else {"device_ids": None}
    parallel = create_ddp_model(model, broadcast_buffers=False, **devices)
    trainer = build_trainer(options, AskedFor(parallel, classes), loader, optimizer)
    # checkpoints, evaluation
    header = {**space, **_known_names(model, first, names, dataset_name)}
    facts = RunFacts(**{"train.seed": seed, "dataloader.train.total_batch_size": _batch_size(config)})
    checkpointer = SafeCheckpointer(model, options.output_dir, header=header, trainer=trainer, run=facts)
    test_name, results = instantiate(config.dataloader.test.dataset.names), {}

    def evaluate() -> Mapping[str, Any]:
        results.update(do_test(config, model, classes_of(test_name, embed_names, header["training_classes"])))
        return results

    # first weights, hooks
    if not first.step:
        _load_first_weights(checkpointer, options)
    if 0 < options.show_period <= options.max_iter and comm.is_main_process():
        test_classes = classes_of(test_name, embed_names, header["training_classes"])
        shown = photos_to_show(config, test_name, test_classes)
        trainer.register_hooks([ShowPhotos(model, shown, test_classes, options.show_period)])
    trainer.register_hooks([*_hooks(config, options, checkpointer, evaluate, seed), FrozenStatistics(frozen)])
    if first.step:
        resume_run(checkpointer, optimizer)
    if comm.is_main_process():
        _begin(as_given, checkpointer, leaks, resumed=first.step > 0)
    # steps
    if first.step == options.max_iter:  # interrupted behind the last step
        logger.info("all %d steps are done: what is left is to save and to evaluate", first.step)
        checkpointer.save("model_final", iteration=first.step - 1)
        return evaluate()
    try:
        trainer.train(first.step, options.max_iter)
    except FloatingPointError as error:
        raise InputError(
            f"expected finite losses, got nan or infinity at step {trainer.iter}: try a lower optimizer.lr"
        ) from error
    return results


def _first_weights(options: TrainOptions, resume: bool) -> InitialWeights:
    """The weights that a run begins or goes on with, the same on all processes."""
    first = initial_weights(options, resume=resume)
    check_ranks_agree(first)
    if first.step > options.max_iter:
        raise InputError(f"expected steps to train, {options.output_dir} is at step {first.step} of {options.max_iter}")
    return first


def _known_names(
    model: nn.Module, first: InitialWeights, names: Sequence[str], dataset_name: str
) -> dict[str, Sequence[str]]:
    """Names for the header of checkpoints: those trained with boxes enough, and all that the weights may know."""
    trained = names
    if not hasattr(model, "training_classes"):  # a closed-set classifier forgets; where names are embedded none is lost
        trained = classes_of_both(first.training_classes, _with_boxes(names, dataset_name))
    return {"training_classes": trained, "known_classes": classes_of_both(first.classes, names)}


def _with_boxes(names: Sequence[str], dataset_name: str) -> Sequence[str]:
    """The names of a data set that were trained: those of a split, else those with boxes; of a mixture with enough."""
    metadata = MetadataCatalog.get(dataset_name)
    counts, well_known = metadata.get("class_image_count"), metadata.get("well_known")
    if well_known is not None or counts is None or metadata.get("base_classes"):
        return names if well_known is None else well_known
    return [name for name, each in zip(names, counts, strict=True) if each["image_count"]]


def _batch_size(config: DictConfig) -> int:
    return int(config.dataloader.train.total_batch_size)


def _seed(options: TrainOptions, first: InitialWeights) -> int:
    """The run's; one that draws its seed is resumed with what it drew."""
    if options.seed >= 0:
        return options.seed
    return comm.shared_random_seed() if first.seed is None else first.seed


def _load_first_weights(checkpointer: SafeCheckpointer, options: TrainOptions) -> None:
    """The weights of `train.init_checkpoint`, or those of some parts."""
    if options.init_parts:
        checkpointer.load_parts(options.init_checkpoint, _parts(options.init_parts))
    else:
        checkpointer.resume_or_load(options.init_checkpoint, resume=False)


def _begin(config: DictConfig, checkpointer: SafeCheckpointer, leaks: LeakReport, *, resumed: bool) -> None:
    """Write what a run is, once nothing speaks against it; an older run in the folder is not the last one any more."""
    file = Path(config.train.output_dir) / "config.yaml"
    if resumed:
        before = read_run_values(file) if file.is_file() else {}
        for line in changed_options(before, plain_values(config)) if before else ():
            logger.warning("resumed with another %s", line)
    else:
        checkpointer.forget_last_checkpoint()
    _write_report(config, leaks)
    save_config(config, file)
    remember_torchrun(config.train.output_dir)


def _hooks(
    config: DictConfig,
    options: TrainOptions,
    checkpointer: SafeCheckpointer,
    evaluate: Callable[[], Mapping[str, Any]],
    seed: int,
) -> list[HookBase | None]:
    """The hooks around the steps, in this order; the main process alone writes."""
    writes = comm.is_main_process()
    period, steps = options.checkpoint_period, options.max_iter

    def save(step: int) -> None:
        checkpointer.save(f"model_{step:07d}", iteration=step)

    return [
        SeededSteps(seed),
        hooks.IterationTimer(),
        GradientClipping(options.clip_gradient_norm) if options.clip_gradient_norm > 0 else None,
        hooks.LRScheduler(scheduler=instantiate(config.lr_multiplier)),
        KeepLastCheckpoints(checkpointer, period, steps, options.max_checkpoints) if writes else None,
        StopAtSigterm(save),
        hooks.EvalHook(options.eval_period, evaluate),
        hooks.PeriodicWriter(default_writers(options.output_dir, steps), options.log_period) if writes else None,
    ]
