"""The page of alerts: what fires, what has ended, silences and channels; and the count of alerts in the header."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.alerts.rules import RULES, TITLES
from dashtop.alerts.watches import describe, describe_wish
from dashtop.model.metric import Severity
from dashtop.model.sample import ALERT_KINDS, EventFilter
from dashtop.model.timerange import DAY_MS
from dashtop.ui import ids
from dashtop.ui.components import attributes, card, scroll_region
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.parts import Part, calculate_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dash.development.base_component import Component

    from dashtop.model.alert import Alert
    from dashtop.model.ports import Services
    from dashtop.model.sample import Event
    from dashtop.ui.panels.base import PanelContext

LOG_SPAN_MS: Final = 7 * DAY_MS
MAX_LOG_ROWS: Final = 50
_LOG_PERIOD_MS: Final = 10_000
_LOG: Final = EventFilter(kinds=ALERT_KINDS, limit=MAX_LOG_ROWS)
_RANKS: Final = {Severity.CRITICAL: 0, Severity.WARNING: 1, Severity.INFO: 2}


def _list_active(context: PanelContext) -> list[Alert]:
    """Return the active alerts, the most severe and then the newest first."""
    active = [alert for alert in context.services.alerts.current() if alert.state.is_active]
    return sorted(active, key=lambda alert: (_RANKS[alert.severity], -(alert.since_ms or 0), alert.id))


def _is_new(alert: Alert) -> bool:
    """Return whether nobody has said anything about an alert, and no other one explains it."""
    return alert.acked_ms is None and alert.silenced_by is None and alert.inhibited_by is None


# --- header -----------------------------------------------------------------------------------------------------------


def bell_layout(_services: Services) -> Component:
    """Return the link to the page; the browser adds the number of alerts (assets/alerts.js)."""
    return html.A(
        [
            html.Span(className="icon icon-bell", **attributes(aria_hidden="true")),
            html.Span(className="bell-count", **attributes(aria_hidden="true")),
            html.Span("Alerts", className="visually-hidden", **attributes(data_bell_text="")),
        ],
        id=ids.ALERT_BELL,
        href="?page=alerts",
        className="btn btn-link icon-button bell",
        **attributes(data_page_link="alerts", data_tip="Alerts"),
    )


def bell_data(context: PanelContext) -> dict[str, Any]:
    """Add `alert_count`: how many alerts nobody has seen yet, and the worst severity among them.

    None while the page shows a past moment: the alerts are those of the present.
    """
    if context.is_past:
        return {"alert_count": None}
    found = [alert for alert in _list_active(context) if _is_new(alert)]
    return {"alert_count": {"count": len(found), "worst": found[0].severity.value if found else ""}}


def bell_parts(context: PanelContext) -> list[Part]:
    """Return "channel_names", the channels that a watch can tell, and "open_watches" (assets/watches.js)."""
    names = [channel.name for channel in context.services.alerts.channels()]
    watches = [
        {
            "id": watch.id,
            "kind": watch.kind.value,
            "gpu_uuid": watch.gpu_uuid,
            "pid": watch.pid,
            "channel": watch.channel,
        }
        for watch in context.services.alerts.watches()
        if watch.met_ms is None
    ]
    return [
        Part("channel_names", calculate_version(repr(names)), lambda: names),
        Part("open_watches", calculate_version(repr(watches)), lambda: watches),
    ]


# --- page -------------------------------------------------------------------------------------------------------------


def firing_data(context: PanelContext) -> dict[str, Any]:
    """Add `alerts`, the active ones."""
    return {
        "alerts": [
            {
                "id": alert.id,
                "severity": alert.severity.value,
                "title": TITLES.get(alert.rule, alert.rule),
                "rule": alert.rule,
                "text": alert.text,
                "advice": alert.advice,
                "gpu": alert.gpu_id,
                "gpu_uuid": alert.gpu_uuid,
                "since": alert.since_ms,
                "recovering": alert.state.value == "recovering",
                "acked_by": alert.acked_by,
                "silenced": alert.silenced_by is not None,
                "explained": alert.inhibited_by is not None,
            }
            for alert in _list_active(context)
        ]
    }


def log_parts(context: PanelContext) -> list[Part]:
    """Return the part "alert_log": the newest alerts that fired or ended in the last week."""
    end_ms = (context.sample.time_ms // _LOG_PERIOD_MS + 1) * _LOG_PERIOD_MS
    key = f"alert-log|{end_ms}|{context.services.history.read_status().version}"

    def read() -> tuple[Event, ...]:
        return context.services.history.events(end_ms - LOG_SPAN_MS, end_ms, _LOG)[::-1]

    events: Sequence[Event] = context.cache.get_or_create(key, read)
    version = calculate_version(repr([(event.time_ms, event.text) for event in events]))
    rows = [[event.time_ms, event.kind, event.severity.value, event.text, event.gpu_uuid] for event in events]
    return [Part("alert_log", version, lambda: rows)]


def silences_data(context: PanelContext) -> dict[str, Any]:
    """Add `silences` and `services`."""
    return {
        "services": [
            {
                "id": service.id,
                "name": service.name,
                "user": service.owner,
                "container": service.container,
                "since": service.time_ms,
                "by": service.author,
            }
            for service in context.services.alerts.services()
        ],
        "silences": [
            {
                "id": silence.id,
                "rule": silence.rule,
                "title": TITLES.get(silence.rule, silence.rule),
                "gpu_uuid": silence.gpu_uuid,
                "until": silence.until_ms,
                "reason": silence.reason,
                "by": silence.author,
            }
            for silence in context.services.alerts.silences()
        ],
    }


def notifications_data(context: PanelContext) -> dict[str, Any]:
    """Add `channels` and `watches`."""
    return {
        "watches": [
            {
                "id": watch.id,
                "text": describe_wish(watch) if watch.met_ms is None else describe(watch),
                "channel": watch.channel,
                "until": watch.until_ms,
                "met": watch.met_ms,
            }
            for watch in context.services.alerts.watches()
        ],
        "channels": [
            {
                "name": channel.name,
                "kind": channel.kind,
                "sent": channel.sent_ms,
                "error": channel.error,
                "pending": channel.pending_count,
            }
            for channel in context.services.alerts.channels()
        ],
    }


def firing_layout(_services: Services) -> Component:
    """Return the card of the active alerts."""
    body = [
        html.Ul(className="alert-list", **attributes(data_alerts="")),
        html.P(className="table-empty", **attributes(data_alerts_empty="")),
        html.P(className="alert-error", role="alert", **attributes(data_alerts_error="")),
    ]
    return card("Firing", body, id=ids.PANEL_ALERTS, class_name="full-width")


def log_layout(_services: Services) -> Component:
    """Return the card of the log."""
    caption = "Alerts of the last seven days"
    table = html.Table(
        [
            html.Caption(caption, className="visually-hidden"),
            html.Thead(html.Tr([html.Th(title, scope="col") for title in ("Time", "Severity", "Alert")])),
            html.Tbody(**attributes(data_alert_log="")),
        ],
        className="processes",
    )
    empty = html.P(className="table-empty", **attributes(data_log_empty=""))
    body = [scroll_region(table, caption), empty]
    return card("Recent", body, id=ids.PANEL_ALERT_LOG, class_name="full-width")


def silences_layout(_services: Services) -> Component:
    """Return the card of silences, and of the rules that they are about."""
    rules = html.Details(
        [
            html.Summary("All rules"),
            html.Ul([html.Li(_describe_rule(rule)) for rule in RULES if rule.enabled], className="rule-list"),
        ],
        className="rules",
    )
    body = [
        html.Ul(className="alert-list", **attributes(data_silences="")),
        html.P(className="table-empty", **attributes(data_silences_empty="")),
        _list_of("Services", data_services=""),
        rules,
    ]
    return card("Silences", body, id=ids.PANEL_SILENCES, class_name="full-width")


def _list_of(title: str, **name: str) -> Component:
    """Return a list with a heading, hidden while it is empty (assets/watches.js)."""
    return html.Div(
        [html.H3(title, className="card-title"), html.Ul(className="alert-list", **attributes(**name))],
        className="alert-group",
        hidden=True,
    )


def notifications_layout(_services: Services) -> Component:
    """Return the card that says where notices go: to this browser (assets/notifications.js) and to channels."""
    body = [
        html.Div(className="alert-item", **attributes(data_this_browser="")),
        html.Ul(className="alert-list", **attributes(data_channels="")),
        html.P(className="table-empty", **attributes(data_channels_empty="")),
        _list_of("Watches", data_watches=""),
    ]
    return card("Notifications", body, id=ids.PANEL_NOTIFICATIONS, class_name="full-width")


def _describe_rule(rule: Any) -> str:
    after = f"after {rule.for_s / 60:g} min" if rule.for_s >= 60 else f"after {rule.for_s:g} s"  # noqa: PLR2004
    return f"{rule.title}: {rule.severity.value}, {after if rule.for_s else 'at once'}"


PANELS: Final = (
    Panel(section=Section.BUTTONS, layout=bell_layout, live_data=bell_data, parts=bell_parts),
    Panel(section=Section.ALERTS, id=ids.PANEL_ALERTS, layout=firing_layout, live_data=firing_data),
    Panel(section=Section.ALERTS, id=ids.PANEL_ALERT_LOG, layout=log_layout, parts=log_parts),
    Panel(
        section=Section.ALERTS, id=ids.PANEL_NOTIFICATIONS, layout=notifications_layout, live_data=notifications_data
    ),
    Panel(section=Section.ALERTS, id=ids.PANEL_SILENCES, layout=silences_layout, live_data=silences_data),
)
