"""Bodies of Dash's callback requests. Dash takes them for its own and fails with 500 on others: checked before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATTERN = "{"
"""An id that begins with it is a pattern: it stands for any number of components."""


def problem(body: object, callbacks: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return what is wrong with a callback request, None for one that fits a callback of the page."""
    if not isinstance(body, dict):
        return "A callback request is a JSON object."
    name = body.get("output")
    callback = callbacks.get(name) if isinstance(name, str) else None
    if callback is None or "callback" not in callback:
        return "No callback of this page has that output; load the page again."
    if not _fit(body.get("inputs"), callback["inputs"]) or not _fit(body.get("state", []), callback["state"]):
        return "The callback's inputs and state are others; load the page again."
    if not callback["no_output"] and not _outputs_fit(body.get("outputs"), callback["output"]):
        return "The callback's outputs are others; load the page again."
    changed = body.get("changedPropIds", [])
    if not isinstance(changed, list) or not all(isinstance(each, str) for each in changed):
        return "changedPropIds is a list of names."
    return None


def _outputs_fit(given: object, declared: Any) -> bool:
    if isinstance(declared, list):
        return _fit(given, [each.to_dict() for each in declared])
    return _is(given, declared.to_dict())


def _fit(given: object, declared: Sequence[Mapping[str, str]]) -> bool:
    if not isinstance(given, list) or len(given) != len(declared):
        return False
    return all(_is(each, one) for each, one in zip(given, declared, strict=True))


def _is(given: object, declared: Mapping[str, str]) -> bool:
    if isinstance(given, list):
        return declared["id"].startswith(PATTERN) and all(_is(each, declared) for each in given)
    if not isinstance(given, dict):
        return False
    pattern = declared["id"].startswith(PATTERN)
    names_it = isinstance(given.get("id"), dict) if pattern else given.get("id") == declared["id"]
    prop = given.get("property")
    return names_it and isinstance(prop, str) and prop.partition("@")[0] == declared["property"].partition("@")[0]
