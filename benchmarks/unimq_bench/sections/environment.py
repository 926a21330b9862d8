"""Where and with what it was measured: everything that a reader needs to doubt the figures, or to repeat them."""

from collections.abc import Iterator, Mapping

import msgspec

from unimq_bench import notation
from unimq_bench.markup import shown
from unimq_bench.results import Row
from unimq_bench.sections.pieces import pill, swatch, table
from unimq_bench.view import View


def rows(view: View) -> Iterator[str]:
    """Yield what decides each row's figures."""
    if not view.result.rows:
        return
    yield '<section><h2 id="rows">The rows</h2>'
    columns = ("Row", "Durability", "Broker", "Client settings", "Broker settings", "Versions")
    yield from table(columns, (_row(view, row) for row in view.result.rows))
    yield "</section>"


def _row(view: View, row: Row) -> str:
    emulated = f"<br>{pill(f'emulated: {row.emulated}', 'half')}" if row.emulated else ""
    place = "<br><small>producer and consumer in one process</small>" if row.in_process else ""
    return (
        f'<tr><th scope="row">{swatch(view, row.name)}{shown(row.name)}<br><small>{shown(row.kind)}</small></th>'
        f"<td>{shown(row.durability or '–')}</td><td><code>{shown(row.url)}</code>{emulated}{place}</td>"
        f"<td>{_settings(row.client_settings)}</td><td>{_settings(row.broker_settings)}</td>"
        f"<td>{_settings(row.versions)}</td></tr>"
    )


def _settings(settings: Mapping[str, str]) -> str:
    return "<br>".join(f"<small>{shown(name)}</small> {shown(value)}" for name, value in settings.items()) or "–"


def environment(view: View) -> Iterator[str]:
    """Yield the machine and the software."""
    yield '<footer><h2 id="environment">Environment</h2><dl>'
    found = view.result.environment
    told: dict[str, str] = {}
    for field in msgspec.structs.fields(type(found)):
        value = getattr(found, field.name)
        if value not in ("", 0, {}):
            told[field.name.replace("_", " ")] = _written(field.name, value)
    told |= {
        "unimq": view.result.unimq,
        "profile": view.result.profile,
        "seed": str(view.result.seed),
        "schema": str(view.result.schema),
    }
    for name, value in told.items():
        yield f"<dt>{shown(name)}</dt><dd>{shown(value)}</dd>"
    yield "</dl></footer>"


def _written(name: str, value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {version}" for key, version in value.items())  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, int | float):
        if name.endswith("_ns"):
            return notation.duration(value)
        if name.endswith("_bytes"):
            return notation.size(value)
        if name == "switch_interval":
            return notation.duration(value * 1e9)
        return notation.number(value)
    return str(value)
