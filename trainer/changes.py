"""Changes of a recipe written as text: FIELD=VALUE, PART.SETTING=VALUE, PART=KIND(...), or SETTING=VALUE."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from facepack.errors import UsageError, nearest
from trainer import calls


@dataclass(frozen=True)
class Part:
    """A field that is one of several frozen dataclasses, its kinds, with settings of their own."""

    kinds: Collection[type]
    from_text: str = ""
    """The setting which text that is no call gives."""
    is_optional: bool = False
    """Empty text means None."""
    shorthands: Mapping[str, tuple[type, str]] = field(default_factory=dict)
    """Bare names that choose a kind and give one of its settings."""

    @property
    def by_name(self) -> dict[str, type]:
        """The kinds by name."""
        return {kind.__name__: kind for kind in self.kinds}

    @property
    def settings(self) -> list[str]:
        """The settings of all kinds."""
        return list(dict.fromkeys(item.name for kind in self.kinds for item in fields(kind)))


@dataclass
class _PartChange:
    """What is asked of a part: another value as text, a kind that takes over what both have, single settings."""

    text: str | None = None
    kind: type | None = None
    settings: dict[str, str] = field(default_factory=dict)


def values_of(
    settings: Iterable[str], current: Any, parts: Mapping[str, Part]
) -> tuple[dict[str, str], dict[str, Any]]:
    """The texts of plain fields, and the new values of parts, that settings such as "lr=0.01" give.

    `current` is the dataclass that is changed; `parts` are its fields that are parts. Raises `UsageError` that names
    the setting.
    """
    texts: dict[str, str] = {}
    changes: dict[str, _PartChange] = defaultdict(_PartChange)
    for setting in settings:
        name, equals, text = (piece.strip() for piece in setting.partition("="))
        if not equals:
            raise UsageError(f"--set {setting}: expected field=value, such as --set epochs=20")
        part_name, dot, part_setting = name.partition(".")
        if dot and part_name in parts:
            changes[part_name].settings[part_setting] = text
        elif name in parts:
            changes[name].text = text
        elif name in {item.name for item in fields(current)}:
            texts[name] = text
        else:
            _change_by_bare_name(name, text, changes=changes, parts=parts, current=current)
    return texts, {
        name: _changed(name, getattr(current, name), change=change, part=parts[name])
        for name, change in changes.items()
    }


def _change_by_bare_name(
    name: str, text: str, *, changes: dict[str, _PartChange], parts: Mapping[str, Part], current: Any
) -> None:
    """Take a setting without its part, where exactly one part has it."""
    for part_name, part in parts.items():
        if name in part.shorthands:
            kind, setting = part.shorthands[name]
            changes[part_name].kind = kind
            changes[part_name].settings[setting] = text
            return
    owners = [part_name for part_name, part in parts.items() if name in part.settings]
    if len(owners) == 1:
        changes[owners[0]].settings[name] = text
        return
    dotted = [f"{part_name}.{setting}" for part_name, part in parts.items() for setting in part.settings]
    if owners:
        raise UsageError(f"--set {name}: {' or '.join(f'{owner}.{name}' for owner in owners)}?")
    bare = [*(item.name for item in fields(current)), *(full.rpartition(".")[2] for full in dotted)]
    raise UsageError(f"--set: no field {name!r}; {nearest(name, dict.fromkeys([*bare, *dotted]))}")


def _changed(name: str, current: Any, *, change: _PartChange, part: Part) -> Any:
    """The new value of a part."""
    if change.text == "" and part.is_optional and not change.settings:
        return None
    values = _settings_of(current)
    if change.text is not None:
        kind, values = _read(name, change.text, part, current=current)
    elif change.kind is not None:
        kind, shared = change.kind, {item.name for item in fields(change.kind)}
        values = {key: value for key, value in values.items() if key in shared}
    else:
        kind = next(iter(part.kinds)) if current is None else type(current)
    for setting in change.settings:
        _check_setting(name, setting, kind=kind, part=part)
    return _made(name, kind, values | change.settings)


def part_from_text(name: str, text: str, part: Part) -> Any:
    """A part as it is written down in full, such as "SGD(lr=0.01, momentum=0.9)"; None for an empty optional one."""
    if not text and part.is_optional:
        return None
    return _made(name, *_read(name, text, part, current=None))


def _read(name: str, text: str, part: Part, *, current: Any) -> tuple[type, dict[str, Any]]:
    """Kind and settings of text; settings without a default that it leaves out are those of the current value."""
    if part.from_text and not text.startswith(tuple(f"{kind}(" for kind in part.by_name)):
        return next(iter(part.kinds)), _settings_of(current) | {part.from_text: text}
    called, arguments, named = calls.name_and_arguments(text, what=name)
    kind = calls.look_up(called, part.by_name, what=name)
    names = [item.name for item in fields(kind)]
    if len(arguments) > len(names):
        calls.bound(kind, arguments, named, what=f"{name} {called}")  # names what there is
    inherited = {key: value for key, value in _settings_of(current).items() if key in _required(kind)}
    return kind, inherited | dict(zip(names, arguments, strict=False)) | named


def _made(name: str, kind: type, values: dict[str, Any]) -> Any:
    """A part of this kind, of checked types."""
    hints = get_type_hints(kind)
    named = calls.bound(kind, [], values, what=f"{name} {kind.__name__}")
    return kind(**{key: typed(value, hints[key], what=f"{key}={value}") for key, value in named.items()})


def typed(value: Any, hint: Any, *, what: str) -> Any:
    """A value of a type, read from text where it is one; `UsageError` begins with `what`."""
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise UsageError(f"{what}: {error.errors()[0]['msg'].lower()}") from error


def _check_setting(name: str, setting: str, *, kind: type, part: Part) -> None:
    """Refuse a setting that this kind does not have, and name the kinds that do."""
    own = [item.name for item in fields(kind)]
    if setting in own:
        return
    others = [other.__name__ for other in part.kinds if setting in {item.name for item in fields(other)}]
    if others:
        owners = f"{' and '.join(others)} {'have' if len(others) > 1 else 'has'} it"
        hint = f"{owners}: --set '{name}={others[0]}({setting}=...)'"
    else:
        hint = nearest(f"{name}.{setting}", [f"{name}.{other}" for other in part.settings])
    raise UsageError(f"--set {name}.{setting}: {name} is {kind.__name__}, which has no {setting!r}; {hint}")


def _required(kind: type) -> set[str]:
    return {item.name for item in fields(kind) if item.default is MISSING and item.default_factory is MISSING}


def _settings_of(value: Any) -> dict[str, Any]:
    return {} if value is None else {item.name: getattr(value, item.name) for item in fields(value)}
