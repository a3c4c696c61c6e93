"""The data page's Jinja template.

It is a Python string because a Flower app bundle carries ``.py`` files only.
"""

from __future__ import annotations

TEMPLATE = """
{% macro map(caption, scene, photo="", overlay="", kind="", bar=none, scale=false) %}
{% call map_panel(scene.frame, scene.width, scene.height, caption, caption ~ " of " ~ scene.name,
 bar=bar, scale=scale) %}
{% if photo %}<use href="#{{ photo }}"/>{% endif %}
{% if overlay %}<image href="{{ overlay }}" width="{{ scene.width }}" height="{{ scene.height }}"
 preserveAspectRatio="none" class="cells {{ kind }}"/>{% endif %}
{% if kind %}<use href="#blocks-{{ scene.number }}" class="blocks"/>{% endif %}
{% endcall %}
{% endmacro %}
<header>
<p class="kind">Data set{{ mark() }}</p>
<h1>{{ facts.name }}</h1>
<p class="lead">{{ facts.source }}</p>
<div class="headline"><dl>
{{ fact(facts.kind ~ " of " ~ facts.chip_px ~ " px", facts.samples|exact) }}
{{ fact("classes", facts.classes|length) }}
{{ fact("bands", facts.bands|length) }}
{{ fact("site" if facts.sites|length == 1 else "sites", facts.sites|length) }}
{{ fact("on disk", facts.bytes|bytes) }}
{% if facts.splits.least_distance_px is not none %}
{{ fact("from train to test", "%g px"|format(facts.splits.least_distance_px)) }}
{% endif %}
</dl></div>
<p class="note-line">Split by {{ facts.splits.method }}, seed {{ facts.splits.seed }}.
{% if "partition" in facts %}
 {{ facts.partition.sites|length }} sites by {{ facts.partition.scheme }}, seed
 {{ facts.partition.seed }}{% if facts.partition.dropped %};
 {{ facts.partition.dropped|exact }} samples are at no site{% endif %}
 {%- for site, names in facts.partition.lacking.items() %};
 {{ site }} lacks {{ names|join(", ") }}{% endfor %}.
{% endif %}</p>
<ul class="legend" aria-label="Splits">
{% for split in splits %}
<li><span class="swatch" style="background:{{ split_colors[split] }}"></span>{{ split }}
<span class="quiet">{{ facts.splits.counts[split]|exact }}</span></li>
{% endfor %}
</ul>
<nav aria-label="Sections">
{% if scenes %}<a href="#maps">Maps</a>{% endif %}
<a href="#classes">Classes</a><a href="#bands">Bands</a><a href="#examples">Examples</a>
<a href="#left-out">Left out</a>
</nav>
</header>
<main>
{% if scenes %}
<section id="maps">
<h2>Maps{{ mark() }}</h2>
<p class="toggles">Show
{% for name in ["splits", "sites", "blocks"] if name != "sites" or facts.sites|length > 1 %}
<label><input type="checkbox" id="show-{{ name }}" checked> {{ name }}</label>
{% endfor %}</p>
<div class="scenes" role="radiogroup" aria-label="Scene">
{% for scene in scenes %}
<div class="choice"><input type="radio" name="scene" id="scene-{{ loop.index }}"
{%- if loop.first %} checked{% endif %}>
<label for="scene-{{ loop.index }}">{{ scene.name }}</label>
<div class="scene">
<h3>{{ scene.name }}</h3>
<p class="sub">{{ scene.samples|exact }} samples. {{ place_line(scene.frame) }}</p>
<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>
<path id="blocks-{{ scene.number }}" vector-effect="non-scaling-stroke" d="{{ scene.blocks }}"/>
{% for photo in scene.photos %}
<image id="photo-{{ scene.number }}-{{ loop.index }}" href="{{ photo.uri }}"
 width="{{ scene.width }}" height="{{ scene.height }}" preserveAspectRatio="none"/>
{% endfor %}
</defs></svg>
<div class="maps">
{% for photo in scene.photos %}
{{ map(photo.caption, scene, photo="photo-%d-%d"|format(scene.number, loop.index), bar=photo.bar,
 scale=loop.first) }}
{% endfor %}
{{ map("labels", scene, overlay=scene.labels) }}
{% for name, uri in scene.overlays %}
{{ map("%s and blocks over %s"|format(name, facts.bands[0].modality), scene,
 photo="photo-%d-1"|format(scene.number), overlay=uri, kind="over-" ~ name) }}
{% endfor %}
</div>
<ul class="legend" aria-label="Classes">
{% for name, color in class_colors.items() %}{% if scene.classes[loop.index0] %}
{{ key(name, color) }}
{% endif %}{% endfor %}
</ul>
</div></div>
{% endfor %}
</div>
<ul class="legend" aria-label="Splits">
{% for split in splits %}{{ key(split, split_colors[split]) }}{% endfor %}
</ul>
{% if facts.sites|length > 1 %}
<ul class="legend" aria-label="Sites">
{% for name, color in site_colors.items() %}{{ key(name, color) }}{% endfor %}
</ul>
{% endif %}
{% if more_scenes %}<p class="sub">{{ more_scenes|exact }} more scenes are not drawn.</p>{% endif %}
{% if overview %}
<h3>Where the sites are</h3>
{{ plot(overview, "The ground of each site’s samples, in longitude and latitude.", "wide") }}
{% endif %}
</section>
{% endif %}

<section id="classes">
<h2>Classes{{ mark() }}</h2>
<p class="sub">Samples by site; the colors of the bars are those of the splits above.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Samples of each class by site">
<table><thead><tr><th scope="col">class</th>
{% for site in facts.sites %}<th scope="col">{{ site }}</th><th class="n">samples</th>{% endfor %}
</tr></thead><tbody>
{% for name, color in class_colors.items() %}{% set label = loop.index0 %}
<tr><th scope="row"><span class="named"><span class="swatch"
 style="background:{{ color }}"></span>{{ name }}</span></th>
{% for counts in facts.sites.values() %}
<td><div class="split-bar">{% for split in splits if counts[split][label] %}<i
 style="width:{{ "%.2f"|format(100 * counts[split][label] / most_samples) }}%;
background:{{ split_colors[split] }}" title="{{ split }} {{ counts[split][label] }}"></i>
{% endfor %}</div></td>
<td class="n">{{ counts.values()|map(attribute=label)|sum|exact }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p class="sub">{{ files("classes", class_table) }}</p>
</section>

<section id="bands">
<h2>Bands{{ mark() }}</h2>
<p class="sub">Statistics of the valid pixels of the train split, as stored. The histograms are of
a sample of them.</p>
{% call table("Bands", ["modality", "band", "unit", "type"], ["nodata", "mean", "std", "min", "max",
 "pixels", "scale", "offset"], last="histogram") %}
{% for band in bands %}
<tr><td>{{ band.modality }}</td><th scope="row">{{ band.band }}</th>
<td>{{ band.unit or "–" }}</td><td>{{ band.dtype }}</td>
<td class="n">{{ band.nodata }}</td>
{% for name in ["mean", "std", "min", "max"] %}
<td class="n">{{ "%.5g"|format(band[name]) }}</td>
{% endfor %}
<td class="n">{{ band.count|exact }}</td>
<td class="n">{{ "" if band.scale == 1 else "%g"|format(band.scale) }}</td>
<td class="n">{{ "" if band.offset == 0 else "%g"|format(band.offset) }}</td>
<td class="quiet">{{ band.histogram }}</td></tr>
{% endfor %}
{% endcall %}
<p class="sub">{{ files("bands", band_table) }}</p>
{% if more_bands %}<p class="sub">{{ more_bands|exact }} more bands are not listed.</p>{% endif %}
</section>

<section id="examples">
<h2>Examples{{ mark() }}</h2>
{% for row in examples %}
<h3>{{ row.name }} <span class="quiet">{{ row.count|exact }}</span></h3>
{% if row.pictures %}
<ul class="thumbs small">
{% for uri in row.pictures %}
<li><img src="{{ uri }}" decoding="async" alt="Sample {{ loop.index }} of {{ row.name }}"></li>
{% endfor %}
</ul>
{% else %}<p class="quiet">There is no sample of this class.</p>{% endif %}
{% endfor %}
</section>

<section id="left-out">
<h2>What was left out, and why</h2>
{% if refused %}
{% call table("Refused files", ["refused", "reason"]) %}
{% for item in refused %}
<tr><td>{{ item.path }}</td><td class="bad">{{ item.reason }}</td></tr>
{% endfor %}
{% endcall %}
{% else %}<p>Nothing was refused.</p>{% endif %}
{% if facts.left_out.values()|sum %}
<p>Windows: {% for reason, number in facts.left_out.items() if number %}{{ number|exact }}
{{ reason|replace("_", " ") }}{{ ", " if not loop.last }}{% endfor %}.</p>
{% endif %}
{% if passed_over %}
{% call table("Files passed over", ["passed over", "reason"]) %}
{% for item in passed_over %}
<tr><td>{{ item.path }}</td><td>{{ item.reason }}</td></tr>
{% endfor %}
{% endcall %}
{% endif %}
{% if facts.notes or facts.splits.notes %}
<h3>Notes</h3>
<ul>{% for note in facts.notes + facts.splits.notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% endif %}
</section>
</main>
<footer></footer>"""
