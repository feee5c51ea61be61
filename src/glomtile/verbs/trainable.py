"""What can be seen to be wrong with a training before it begins."""

from __future__ import annotations

from glomtile.config.folders import held_by_runs, run_folders
from glomtile.config.schema import Config
from glomtile.errors import ConfigError, InputError
from glomtile.files.pairs import changed_since_prepared, prepared_from
from glomtile.types import Progress

_NAMED = 3


def validates(config: Config) -> bool:
    """Whether there are images to judge each epoch by; ``[valid]`` may name none."""
    return config.valid.images_dir is not None


def require_trainable(config: Config, resume: bool) -> None:
    """See that a training of these settings makes sense, before anything heavy is loaded.

    Parameters
    ----------
    config : Config
    resume : bool
        A file that stopped the run before may still lie there.

    Raises
    ------
    ConfigError
        It does not: settings contradict each other, or writing would take away what was given.
    """
    train = config.train
    if train.learning_rate_reducer and train.schedule != "constant":
        raise ConfigError(
            f"{config.source or 'config'} [train] learning_rate_reducer",
            f"expected schedule = 'constant' beside the reducer, got {train.schedule!r}",
            "a rate follows either its schedule or the plateaus",
        )
    if not validates(config) and train.use == "best":
        raise ConfigError(
            f"{config.source or 'config'} [valid] images_dir",
            "expected validation images, by which the best epoch is chosen, got none",
            'name them, or train to the end of the schedule and use that: [train] use = "last"',
        )
    require_buildable(config)
    _require_run_folders(config)
    stop = config.resolve(train.break_file)
    if stop.exists() and not resume:
        raise ConfigError(
            stop, "expected no stop file before training starts, found one", "remove it and start again"
        )


def require_buildable(config: Config) -> None:
    """See that the network has as many classes as there are colours, and an input that its levels can halve.

    Raises
    ------
    ConfigError
        It has not.
    """
    model, where = config.model, config.source or "config"
    classes = config.palette().num_classes
    if max(2, model.num_classes) != classes:
        raise ConfigError(
            f"{where} [model] num_classes",
            f"expected the {classes} classes of [mask] rgb_map, got {model.num_classes}",
            "give every class one colour in rgb_map; a binary network has num_classes 1 or 2",
        )
    step = 2 ** (model.num_layers - 1)
    for key in ("image_width", "image_height"):
        side = getattr(model, key)
        if side % step:
            raise ConfigError(
                f"{where} [model] {key}",
                f"expected a multiple of {step}, which {model.num_layers} levels halve evenly, got {side}",
            )


def _require_run_folders(config: Config) -> None:
    """A folder that is moved aside as an earlier run holds neither what was given nor its sources."""
    held = [(folder, kept) for _, folder, kept in held_by_runs(config)]
    sources = prepared_from(config.resolve(config.train.images_dir)) if config.train.images_dir else ()
    held += [(run, path) for run in run_folders(config) for path in sources if path.is_relative_to(run)]
    for folder, kept in held:
        raise ConfigError(
            folder,
            f"expected a folder of its own for what training writes, got one that holds {kept}",
            "an earlier run is moved aside as a whole folder",
        )


def tell_of_split(config: Config, progress: Progress) -> None:
    """Warn of a cross-validation over a part of the data: ``[train]`` of what `prepare` split and cut.

    Parameters
    ----------
    config : Config
    progress : Progress
    """
    if not prepared_from(config.folder("train", "images_dir")):
        return
    tiles = config.dataset.sampling == "tiles"
    progress.warn(
        "[train] images_dir is one split of a prepared dataset: the images of the others are left out"
        + (", and tiles of one image may fall into several folds" if tiles else "")
        + "; give the folders of the whole images, --set train.images_dir=… --set train.masks_dir=…"
    )


def tell_of_changed_sources(config: Config, split: str, progress: Progress) -> None:
    """Warn of whole images, masks and annotations that are not those a split's tiles were made from.

    Parameters
    ----------
    config : Config
    split : {"train", "valid", "test"}
    progress : Progress
        Is warned, too, of what cannot be compared: nothing here ends a run.
    """
    folders = config.folder(split, "images_dir"), config.folder(split, "masks_dir")
    try:
        changed = changed_since_prepared(*folders)
    except (InputError, OSError) as problem:
        progress.warn(f"[{split}]: whether anything changed since prepare cannot be told: {problem}")
        return
    if changed:
        named = ", ".join(str(path) for path in changed[:_NAMED])
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        read = "whole images are read as they are now, the tiles are older"
        if config.dataset.sampling == "tiles" and split != "test":
            read = "the tiles are older"
        progress.warn(f"[{split}]: {named}{more} changed since prepare; {read}: run prepare again")
