"""Two stored configurations, or other nested dicts, field by field."""

from collections.abc import Collection
from typing import Any

from cnn_jax.config.fields import FIELDS, RESUMABLE
from cnn_jax.core.imports import is_path
from cnn_jax.models import MODELS, options


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts as one, with dotted names."""
    fields = {}
    for name, value in tree.items():
        fields |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return fields


def is_one_of(field: str, names: Collection[str]) -> bool:
    """Returns whether a field is named, or its section ("eval.") is."""
    return any(field == name or (name.endswith(".") and field.startswith(name)) for name in names)


def differences(
    old: dict[str, Any], new: dict[str, Any], *, may_differ: Collection[str] = RESUMABLE, prefix: str = "config."
) -> list[str]:
    """Returns a line for each field that differs, without those that may: names of fields, or of sections ("eval.").

    A field that one of them lacks has its default there: it is newer than what was stored.
    """
    before, after = flat(old), flat(new)
    found = []
    for field in sorted(before | after):
        default = default_of(field, after.get("model.name")) if prefix == "config." else "absent"
        own, other = before.get(field, default), after.get(field, default)
        if own != other and not is_one_of(field, may_differ):
            found.append(f"  {prefix}{field}: {own!r} in the folder, {other!r} now")
    return found


def default_of(field: str, network: Any) -> Any:
    """Returns the default of a field of the configuration as JSON has it; "absent" if it has none.

    Args:
      field: its dotted name. network: config.model.name.
    """
    name = field.removeprefix("model.")
    if field in FIELDS:
        return plain(FIELDS[field].default)
    if name != field and (network in MODELS or is_path(str(network))) and name in (known := options(network)):
        return plain(known[name].default)
    return "absent"


def plain(value: Any) -> Any:
    """Returns a value as JSON has it: lists instead of tuples."""
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value
