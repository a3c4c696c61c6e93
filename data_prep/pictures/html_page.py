"""One HTML file from a template: its frame, its style, and numbers as text."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from data_prep.pictures import number_format
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
    template: str, *, title: str, synthetic: bool, policy: str = _POLICY, **context: Any
) -> str:
    """Return a page; everything that comes from the data is escaped.

    ``template`` is the Jinja source of what is inside ``<body>``. Besides what ``context`` names,
    it may use the frame's macros ``mark`` (a badge if the data are synthetic), ``fact``, ``key``
    and ``table``, and the filters below. Both pages write numbers with them.
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
        seconds=number_format.seconds_text,
    )
    page = environment.from_string(_HEAD + template + _FOOT)
    style = Markup(STYLE)  # noqa: S704  our own constant
    return page.render(title=title, synthetic=synthetic, style=style, policy=policy, **context)
