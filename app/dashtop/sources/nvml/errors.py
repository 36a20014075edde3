"""The gate to NVML: every call passes here, and every way of failing leaves it as Unavailable with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pynvml

from dashtop.model.text import sanitize_text
from dashtop.model.unavailable import Unavailable, UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Callable

ResultT = TypeVar("ResultT")

TEXT_LENGTH = 96

# NVML manual, "Return values" (nvmlReturn_t).
REASONS = {
    pynvml.NVML_ERROR_UNINITIALIZED: UnavailableReason.NO_DRIVER,
    pynvml.NVML_ERROR_NOT_SUPPORTED: UnavailableReason.NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION: UnavailableReason.NO_PERMISSION,
    pynvml.NVML_ERROR_NOT_FOUND: UnavailableReason.NOT_SUPPORTED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: UnavailableReason.NO_DRIVER,
    pynvml.NVML_ERROR_TIMEOUT: UnavailableReason.DRIVER_SILENT,
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: UnavailableReason.NO_LIBRARY,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: UnavailableReason.LIBRARY_TOO_OLD,
    pynvml.NVML_ERROR_GPU_IS_LOST: UnavailableReason.GPU_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED: UnavailableReason.GPU_RESET_REQUIRED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: UnavailableReason.DRIVER_MISMATCH,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: UnavailableReason.LIBRARY_TOO_OLD,
    pynvml.NVML_ERROR_DEPRECATED: UnavailableReason.NOT_SUPPORTED,
}


def reason_of(code: int) -> UnavailableReason:
    """Return the reason that an NVML return code stands for."""
    return REASONS.get(code, UnavailableReason.DRIVER_ERROR)


def call(function: Callable[..., ResultT], *arguments: object) -> ResultT:
    """Call one function of the binding; raise Unavailable where NVML answers with an error."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        raise Unavailable(reason_of(error.value)) from None


def call_or_none(function: Callable[..., ResultT], *arguments: object) -> ResultT | None:
    """Call one function of the binding for a static fact; None where NVML does not tell."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def text(function: Callable[..., str], *arguments: object) -> str:
    """Ask for a text and make it fit to be shown; raise Unavailable as `call` does.

    The binding takes it for UTF-8, and names and numbers that a card carries need not be.
    """
    told: str | bytes
    try:
        told = call(function, *arguments)
    except UnicodeDecodeError as damaged:
        told = damaged.object
    return sanitize_text(told, limit=TEXT_LENGTH)


def text_or_none(function: Callable[..., str], *arguments: object) -> str | None:
    """Ask for a text; None where NVML does not tell, or tells nothing."""
    try:
        return text(function, *arguments) or None
    except Unavailable:
        return None
