"""All recipes by name."""

from cnn_jax.config.recipes import find, get_config, names

__all__ = ["FILES", "NETWORKS", "get_config"]

FILES = {name: find(name) for name in names()}
NETWORKS = sorted(set(FILES) - {"finetune", "replay", "resnet50_slide"})
