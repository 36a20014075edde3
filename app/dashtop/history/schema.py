"""The tables of the history, in the words of each database that may hold them."""

from __future__ import annotations

VERSION = 1
"""Of the tables. Another one means that what was written before is not understood."""

# `window` is a word of SQL in PostgreSQL and so stands in quotes wherever it is a name.
_SCHEMA = """
CREATE TABLE series (id {key}, metric TEXT NOT NULL, gpu TEXT NOT NULL, UNIQUE (metric, gpu));
CREATE TABLE layout (id {key}, series {blob} NOT NULL);
CREATE UNIQUE INDEX layout_series ON layout ({layout_series});
CREATE TABLE head (id {key}, tier {whole} NOT NULL, time_ms {whole} NOT NULL, layout {whole} NOT NULL,
    data {blob} NOT NULL);
CREATE INDEX head_time ON head (tier, time_ms);
CREATE TABLE "window" (id {whole} PRIMARY KEY, tier {whole} NOT NULL, start_ms {whole} NOT NULL, times {blob} NOT NULL);
CREATE INDEX window_start ON "window" (tier, start_ms);
CREATE TABLE chunk (id {key}, series {whole} NOT NULL, "window" {whole} NOT NULL, data {blob} NOT NULL);
CREATE UNIQUE INDEX chunk_place ON chunk (series, "window");
CREATE TABLE event (id {key}, time_ms {whole} NOT NULL, kind TEXT NOT NULL, severity TEXT NOT NULL,
    text TEXT NOT NULL, gpu TEXT, advice TEXT NOT NULL, code {whole});
CREATE INDEX event_time ON event (time_ms);
CREATE TABLE process (id {key}, gpu TEXT NOT NULL, pid {whole} NOT NULL, start_ms {whole} NOT NULL,
    end_ms {whole} NOT NULL, memory {whole}, peak_memory {whole}, peak_sm {real}, facts TEXT NOT NULL,
    UNIQUE (gpu, pid, start_ms));
CREATE INDEX process_time ON process (gpu, end_ms);
"""


def schema(*, key: str, whole: str, real: str, blob: str, layout_series: str) -> str:
    """Return the statements that make the tables, with a database's own words for the types.

    `key`: an id that the database gives out in ascending order; `layout_series`: what is unique of a layout.
    """
    return _SCHEMA.format(key=key, whole=whole, real=real, blob=blob, layout_series=layout_series)
