"""Two stored configurations, or other nested dicts, field by field."""

from collections.abc import Collection
from typing import Any

from cnn_jax.config.fields import RESUMABLE


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
    """Returns a line for each field that differs, without those that may: names of fields, or of sections ("eval.")."""
    before, after = flat(old), flat(new)
    return [
        f"  {prefix}{field}: {before.get(field, 'absent')!r} in the folder, {after.get(field, 'absent')!r} now"
        for field in sorted(before | after)
        if before.get(field) != after.get(field) and not is_one_of(field, may_differ)
    ]
