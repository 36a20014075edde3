"""Validate the bodies of Dash's callback requests. Dash assumes that they are correct and answers 500 if not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATTERN_PREFIX = "{"
"""First character of a pattern-matching id, which stands for any number of components."""


def find_callback_error(body: object, callbacks: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return what is wrong with the body of a callback request, None if it matches one of the page's callbacks.

    `callbacks`: the registered callbacks by output, each with `inputs`, `state`, `output` and `no_output`.
    """
    if not isinstance(body, dict):
        return "A callback request must be a JSON object."
    name = body.get("output")
    callback = callbacks.get(name) if isinstance(name, str) else None
    if callback is None or "callback" not in callback:
        return "Unknown callback output. Reload the page."
    inputs_match = _matches_all(body.get("inputs"), callback["inputs"])
    if not inputs_match or not _matches_all(body.get("state", []), callback["state"]):
        return "The inputs or state do not match the callback. Reload the page."
    if not callback["no_output"] and not _matches_outputs(body.get("outputs"), callback["output"]):
        return "The outputs do not match the callback. Reload the page."
    changed = body.get("changedPropIds", [])
    if not isinstance(changed, list) or not all(isinstance(each, str) for each in changed):
        return "changedPropIds must be a list of strings."
    return None


def _matches_outputs(value: object, declared: Any) -> bool:
    if isinstance(declared, list):
        return _matches_all(value, [each.to_dict() for each in declared])
    return _matches(value, declared.to_dict())


def _matches_all(values: object, declared: Sequence[Mapping[str, str]]) -> bool:
    if not isinstance(values, list) or len(values) != len(declared):
        return False
    return all(_matches(value, one) for value, one in zip(values, declared, strict=True))


def _matches(value: object, declared: Mapping[str, str]) -> bool:
    is_pattern = declared["id"].startswith(PATTERN_PREFIX)
    if isinstance(value, list):
        return is_pattern and all(_matches(each, declared) for each in value)
    if not isinstance(value, dict):
        return False
    has_id = isinstance(value.get("id"), dict) if is_pattern else value.get("id") == declared["id"]
    prop = value.get("property")
    return has_id and isinstance(prop, str) and prop.partition("@")[0] == declared["property"].partition("@")[0]
