"""Standard output of the `dashtop` command, which may be closed, full, or of an encoding without all characters."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys

from dashtop.model.errors import OutputError

STANDARD_DESCRIPTORS = (0, 1, 2)


def prepare_streams() -> None:
    """Open standard streams that are closed, and replace characters that the encoding of standard output lacks.

    Without this, the first file that is opened, such as the history, would get the number of a closed stream, and
    everything that is printed. A closed stream is opened for reading, so that writing to it stays an error.
    """
    for descriptor in STANDARD_DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - written to for as long as the process runs
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def write_output(text: str) -> None:
    """Write text to standard output in one piece. Raise OutputError if it is closed or full.

    print() writes the line break separately if the stream is unbuffered, and a log line may come before it.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        raise
    except OSError as error:
        _discard_output()
        raise OutputError(f"Cannot write to standard output ({error.strerror or error}).") from error


def _discard_output() -> None:
    """Direct standard output to nowhere: Python writes what is left in its buffer again when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def format_json(body: object) -> str:
    """Return indented JSON; with escapes for all but ASCII if standard output is not UTF-8."""
    is_utf8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    return json.dumps(body, indent=2, ensure_ascii=not is_utf8)
