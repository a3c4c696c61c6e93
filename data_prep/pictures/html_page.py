"""One HTML file from a template: its frame, its style, and numbers as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from data_prep import number_format
from data_prep.pictures.page_style import STYLE

# The policy lets a page fetch and run nothing, whatever names from the data it shows.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="{{ policy }}">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
{% macro mark() %}{% if synthetic %} <span class="badge">synthetic data</span>{% endif %}
{% endmacro %}
{% macro fact(label, value, class="") %}
<div{% if class %} class="{{ class }}"{% endif %}><dt>{{ label }}</dt><dd>{{ value }}</dd></div>
{% endmacro %}
{% macro key(name, color) %}
<li><span class="swatch" style="background:{{ color }}"></span>{{ name }}</li>
{% endmacro %}
{% macro files(name, table=none, figure=none) %}
<span class="files">{% if figure %}<a download="{{ stem }}-{{ figure.key }}.svg"
 href="{{ figure.svg_uri }}" aria-label="{{ name }} as SVG">SVG</a>{% endif %}
{% if table and table.rows %}<a download="{{ stem }}-{{ name|replace(" ", "-") }}.csv"
 href="{{ table.uri }}" aria-label="{{ name }} as CSV">CSV</a>{% endif %}</span>
{% endmacro %}
{% macro plot(figure, caption, kind="") %}
<figure>
<div class="plot {{ kind }}" tabindex="0" role="group" aria-label="{{ caption }}">{{ figure }}</div>
<figcaption>{{ caption }} {{ files(figure.key, figure.table, figure) }}</figcaption>
</figure>
{% endmacro %}
{% macro map_panel(place, width, height, caption, alt, bar=none, scale=false) %}
<figure>
<figcaption>{{ caption }}</figcaption>
<div class="map" style="--ratio:{{ "%.4f"|format(width / height) }}">
<div class="ground">
<svg viewBox="-0.06 -0.06 {{ width + 0.12 }} {{ height + 0.12 }}" role="img"
 aria-label="{{ alt }}">{{ caller() }}</svg>
{% if scale and place.scale_share %}
<span class="scale-bar" style="width:{{ place.scale_share }}%">{{ place.scale_text }}</span>
<span class="north">N</span>
{% endif %}
</div>
<div class="x-ticks">{% for tick in place.x_ticks %}<span style="left:{{ tick.at }}%">
{{- tick.text }}</span>{% endfor %}</div>
<div class="y-ticks">{% for tick in place.y_ticks %}<span style="top:{{ tick.at }}%">
{{- tick.text }}</span>{% endfor %}</div>
</div>
{% if bar %}<p class="color-bar"><span>{{ bar.low }}</span><i style="background:
{{- bar.gradient }}"></i><span>{{ bar.high }}</span> <span>{{ bar.unit }}</span></p>{% endif %}
</figure>
{% endmacro %}
{% macro place_line(place) %}
{% if place.crs %}{{ place.crs }}, coordinates in {{ place.unit }}.
{% if place.center %}Center: {{ place.center }}. {% endif %}North is up.
{% else %}No CRS: coordinates are pixels of the scene.{% endif %} A cell is {{ place.cell }} wide.
{% endmacro %}
{% macro table(label, texts, numbers=(), last="", kind="") %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ label }}">
<table{% if kind %} class="{{ kind }}"{% endif %}><thead><tr>
{% for name in texts %}<th scope="col">{{ name }}</th>{% endfor %}
{% for name in numbers %}<th scope="col" class="n">{{ name }}</th>{% endfor %}
{% if last %}<th scope="col">{{ last }}</th>{% endif %}
</tr></thead><tbody>
{{ caller() }}
</tbody></table></div>
{% endmacro %}
"""
_FOOT = """
</body>
</html>
"""


def render_page(
    template: str,
    *,
    title: str,
    synthetic: bool,
    stem: str = "rsdgc",
    policy: str = _POLICY,
    **context: Any,
) -> str:
    """Return a page; everything that comes from the data is escaped.

    ``template`` is the Jinja source of what is inside ``<body>``. Besides what ``context`` names,
    it may use the frame's macros ``mark`` (a badge if the data are synthetic), ``fact``, ``key``,
    ``table``, ``plot`` (a figure with its files), ``map_panel`` and ``place_line`` (a picture with
    coordinates, and where it is), and the filters below. All pages write numbers with them.
    ``stem`` begins the names of files that readers keep.
    ``policy`` is the page's Content-Security-Policy.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        bytes=number_format.bytes_text,
        times=number_format.times_text,
        percent=number_format.percent_text,
        decimal=number_format.decimal_text,
        count=number_format.count_text,
        exact="{:,}".format,
        limits=_limits_text,
        seconds=number_format.seconds_text,
    )
    page = environment.from_string(_HEAD + template + _FOOT)
    facts = {"title": title, "synthetic": synthetic, "stem": stem}
    own = {"style": Markup(STYLE), "policy": Markup(policy)}  # noqa: S704  constants
    return page.render(**facts, **own, **context)


def _limits_text(interval: Sequence[float] | None) -> str:
    """Write the limits of a share: ``85.6–92.4 %``."""
    if interval is None:
        return number_format.MISSING
    low, high = (100 * limit for limit in interval)
    return f"{low:.1f}–{high:.1f}\u00a0%"
