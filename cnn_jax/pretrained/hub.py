"""Weights by name from the Hugging Face Hub, with what timm writes about them; and folders pushed there.

    hub:OWNER/NAME, hub:OWNER/NAME@REVISION

model.safetensors is read, or pytorch_model.bin where there is none, and config.json. Files that were fetched before are
read from the library's cache if there is no network.
"""

import contextlib
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_jax.core.errors import UserError, check
from cnn_jax.data.dataset import INTERPOLATIONS
from cnn_jax.pretrained.recognition import PLAIN

PREFIX = "hub:"
NAME = re.compile(r"[\w.-]+/[\w.-]+")
FILES = ("model.safetensors", "pytorch_model.bin")
CARD = "README.md"


@dataclass(frozen=True)
class Fetched:
    """What the Hub has under a name.

    source: the SOURCE that names it for good, by its commit. weights: the file. config: config.json, or None.
    """

    source: str
    weights: Path
    config: Mapping[str, Any] | None


def fetch(source: str) -> Fetched:
    """Returns the files of `hub:OWNER/NAME[@REVISION]`.

    Raises:
      UserError: the library is missing, there is no such name, revision or file, or no network.
    """
    name, _, revision = source.removeprefix(PREFIX).partition("@")
    check(
        NAME.fullmatch(name) is not None,
        f"{source!r} names nothing: write {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION",
    )
    huggingface_hub, errors = _library(source)

    def get(file: str) -> Path | None:
        """Returns the path of a file, or None if the repository has none of this name."""
        try:
            with _quiet():
                return Path(huggingface_hub.hf_hub_download(name, file, revision=revision or None))
        except errors.RevisionNotFoundError:
            raise UserError(f"{source}: {name} has no revision {revision!r}") from None
        except errors.GatedRepoError:
            raise UserError(
                f"{source}: its owner asks to accept terms on its page, then log in: hf auth login"
            ) from None
        except errors.RepositoryNotFoundError:
            raise UserError(
                f"{source}: the Hub has no {name}, or it is private: then log in first, hf auth login"
            ) from None
        except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
            raise UserError(
                f"{source}: the Hub cannot be reached, and {file} was not fetched before. Fetch it where there is a "
                f"network (hf download {name}), and name the file here instead of {PREFIX}..."
            ) from None
        except errors.EntryNotFoundError:
            return None
        except errors.HFValidationError as error:
            raise UserError(f"{source}: {error}") from None
        except (errors.HfHubHTTPError, OSError) as error:
            raise UserError(f"{source} cannot be fetched: {error}") from None

    weights = next((path for file in FILES if (path := get(file))), None)
    if weights is None:
        raise UserError(f"{source}: {name} has none of {', '.join(FILES)}")
    # From here on by commit: a branch may move between two files.
    revision = weights.parent.name
    path = get("config.json")
    return Fetched(f"{PREFIX}{name}@{revision}", weights, _read(path, source) if path else None)


def _library(name: str) -> tuple[Any, Any]:
    """Returns huggingface_hub and its module of errors; raises UserError if it is not installed."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise UserError(f"{name} needs the library huggingface_hub: pip install 'cnn-jax[hub]'") from None
    return huggingface_hub, errors


# ---------------------------------------------------------------- push


def check_target(target: str, *, overwrite: bool) -> str | None:
    """Checks, before anything is computed, that files can be pushed to `hub:OWNER/NAME`.

    Returns:
      The license that the model card there names, or None.

    Raises:
      UserError: the name is malformed, the library is missing, nobody is logged in, the Hub cannot be reached, or the
        repository has weights and `overwrite` is false.
    """
    name = target.removeprefix(PREFIX)
    check(
        NAME.fullmatch(name) is not None,
        f"{target!r} names no repository: write {PREFIX}OWNER/NAME, without @REVISION",
    )
    library, errors = _library(target)
    check(
        bool(library.get_token()),
        f"{target}: you are not logged in to the Hub: hf auth login, or set HF_TOKEN to a token that may write",
    )
    with _refusals(target, errors):
        try:
            found = library.HfApi().model_info(name)
        except errors.RepositoryNotFoundError:
            return None  # also what the Hub says of a private one of somebody else
    there = [file.rfilename for file in found.siblings or []]
    check(
        overwrite or not set(there) & set(FILES),
        f"{target} has weights already: name another, or add --overwrite (the Hub keeps the earlier commit)",
    )
    return found.card_data.get("license") if found.card_data else None


def push(folder: Path, target: str, *, private: bool) -> str:
    """Pushes the files of a folder to `hub:OWNER/NAME` in one commit; returns the address of its page.

    Args:
      private: a repository that is not there yet is made private.

    Raises:
      UserError: as `check_target`, or the token may not write there.
    """
    library, errors = _library(target)
    name = target.removeprefix(PREFIX)
    with _refusals(target, errors), _quiet(), _without_bars():
        api = library.HfApi()
        address = api.create_repo(name, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Push a network of cnn_jax")
    return str(address)


@contextlib.contextmanager
def _refusals(target: str, errors: Any) -> Iterator[None]:
    """Raises one UserError for what the library raises where the Hub refuses or cannot be reached."""
    try:
        yield
    except errors.HFValidationError as error:
        raise UserError(f"{target}: {error}") from None
    except errors.OfflineModeIsEnabled:
        raise UserError(f"{target}: HF_HUB_OFFLINE is set, and nothing can be pushed without a network") from None
    except errors.HfHubHTTPError as error:
        code = getattr(error.response, "status_code", None)
        if code == 401:
            reason = "the Hub does not know your token: log in again, hf auth login"
        elif code == 403:
            reason = "your token may not write there: take one that may, or a name of your own as OWNER"
        else:
            reason = f"the Hub refuses: {error}"
        raise UserError(f"{target}: {reason}") from None
    except RuntimeError as error:  # of the upload of a large file
        raise UserError(f"{target}: {error} {error.__cause__ or ''}".rstrip()) from None
    except (OSError, errors.HTTPError) as error:  # the latter: of the library's HTTP client
        raise UserError(
            f"{target}: the Hub cannot be reached ({error}). Write a file where there is no network, "
            "--output=FILE.safetensors, and push it later"
        ) from None


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """The library draws progress bars of its own."""
    from huggingface_hub import utils

    shown = not utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            utils.enable_progress_bars()


# ---------------------------------------------------------------- what the library says


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library logs each of its attempts to reach the Hub; the last one is an exception."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# ---------------------------------------------------------------- config.json


def _read(path: Path, source: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise UserError(f"{source}: its config.json is damaged") from None


def describe(config: Mapping[str, Any], source: str, num_classes: int) -> tuple[dict[str, Any], list[str]]:
    """Returns the fields of `workdir.INPUT` that timm's config.json gives, and notes for people.

    As timm does it, the shorter side of a test image is resized to floor(size / crop_pct).

    Raises:
      UserError: it is of an architecture that has the names of a known network and computes something else, or a value
        is impossible.
    """
    architecture, arguments = config.get("architecture"), config.get("model_args")
    check(
        architecture is None or (isinstance(architecture, str) and re.fullmatch(PLAIN, architecture) is not None),
        f"{source} is of the architecture {architecture!r}, which is not built here, though its weights may have the "
        "names of one that is",
    )
    changed = {str(name) for name in arguments} - {"num_classes", "in_chans"} if isinstance(arguments, Mapping) else ()
    check(not changed, f"{source} is a {architecture} with other {', '.join(sorted(changed))}: that is not built here")
    about = config.get("pretrained_cfg", config)
    about = about if isinstance(about, Mapping) else {}
    fields, notes = {}, []
    for name in ("mean", "std"):
        if name in about:
            check(_numbers(about[name]), f"{source}: config.json says {name} {about[name]!r}, which are not numbers")
            fields[name] = [float(value) for value in about[name]]
    size = about.get("input_size", [3, 224, 224])
    crop = about.get("crop_pct", 0.875)
    check(
        _numbers(size) and len(size) == 3 and size[1] == size[2] and all(0 < n < 10_000 and n == int(n) for n in size),
        f"{source}: config.json says input_size {size!r}, but it must be [channels, size, size]",
    )
    check(
        _numbers([crop]) and 0.1 < crop <= 1,
        f"{source}: config.json says crop_pct {crop!r}, but it must be in (0.1, 1]",
    )
    fields["image_size"] = [int(size[1])] * 2
    fields["test_resize"] = math.floor(size[1] / crop)
    if (mode := about.get("crop_mode", "center")) != "center":
        notes.append(f"they were made for crop_mode {mode!r}, here it is the center")
    fields["interpolation"] = interpolation = about.get("interpolation", "bilinear")
    if interpolation not in INTERPOLATIONS:
        fields["interpolation"] = "bilinear"
        notes.append(f"they were made for {interpolation} resizing, here it is bilinear: accuracy may differ a little")
    names, told = config.get("label_names", about.get("label_names")), config.get("label_descriptions")
    if isinstance(names, list) and len(names) == num_classes and all(isinstance(name, str) for name in names):
        told = told if isinstance(told, Mapping) else {}
        described = [str(told.get(name, name)) for name in names]
        fields["classes"] = described if len(set(described)) == len(names) else names
    elif names is not None:
        notes.append(f"its label_names are not one for each of the {num_classes} classes, and left out")
    return fields, notes


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) and math.isfinite(value) for value in values)
