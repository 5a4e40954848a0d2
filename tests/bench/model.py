"""The model on which training and generation are measured."""

from functools import lru_cache

from irgpt_lib import artifacts, params
from irgpt_lib.models.families import Family
from irgpt_lib.training.starting import starting_model


@lru_cache
def starting() -> tuple[Family, str]:
    """The model that the study's runs start from, and its name; before `dvc repro base` an untrained miniature of the
    base's shape."""
    loaded = params.load("base", "model")
    folder = artifacts.path(artifacts.BASE)
    made = folder.is_dir()
    config = loaded.model if made else loaded.model.model_copy(update={"shape": loaded.base.shape})
    return starting_model(config, folder), "the study's base" if made else "an untrained miniature"
