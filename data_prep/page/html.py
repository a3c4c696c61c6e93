"""The page's HTML, as a Jinja template; everything that comes from the data is escaped."""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ facts.name }}: data</title>
<style>
:root { --ink: #1f2328; --soft: #656d76; --line: #d8dee4; --wash: #f6f8fa; }
body { margin: 0 auto; max-width: 1180px; padding: 24px; color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; background: #fff; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 10px; }
h3 { font-size: 15px; margin: 18px 0 6px; }
p { margin: 4px 0; } .soft { color: var(--soft); }
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: left; padding: 3px 10px 3px 0; border-bottom: 1px solid var(--line);
  vertical-align: middle; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.facts { display: flex; flex-wrap: wrap; gap: 10px; margin: 14px 0; }
.facts div { background: var(--wash); border: 1px solid var(--line); border-radius: 6px;
  padding: 8px 14px; } .facts b { display: block; font-size: 19px; }
.key { display: inline-block; margin-right: 14px; font-size: 13px; white-space: nowrap; }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 2px;
  margin-right: 5px; vertical-align: -1px; }
.maps { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start; }
figure { margin: 0; } figcaption { font-size: 13px; color: var(--soft); margin-bottom: 3px; }
.stack { position: relative; background: repeating-conic-gradient(#eee 0 25%, #fff 0 50%)
  0 0 / 12px 12px; line-height: 0; }
.stack img { width: 100%; height: 100%; image-rendering: pixelated; }
.stack img + img { position: absolute; inset: 0; }
.bar { display: flex; height: 12px; width: 160px; background: var(--wash); }
.bar span { display: block; height: 12px; }
.sheet { image-rendering: pixelated; display: block; }
label { font-size: 13px; margin-right: 12px; }
.reason { color: #9a3412; } td.chart { color: #57606a; }
.hide-splits .o-splits, .hide-sites .o-sites, .hide-blocks .o-blocks { display: none; }
</style>
</head>
<body>
<h1>{{ facts.name }}</h1>
<p class="soft">{{ facts.source }}{% if facts.synthetic %} &middot; synthetic data{% endif %}</p>
<div class="facts">
<div><b>{{ facts.samples }}</b>{{ facts.kind }} of {{ facts.chip_px }} px</div>
<div><b>{{ facts.classes | length }}</b>classes</div>
<div><b>{{ facts.bands | length }}</b>bands</div>
<div><b>{{ facts.sites | length }}</b>site{{ 's' if facts.sites | length > 1 }}</div>
<div><b>{{ '%.1f' | format(facts.bytes / 1e6) }} MB</b>on disk</div>
{% if facts.splits.least_distance_px is not none %}
<div><b>{{ '%g' | format(facts.splits.least_distance_px) }} px</b>from train to test</div>
{% endif %}
</div>
<p>Split by {{ facts.splits.method }}, seed {{ facts.splits.seed }}:
{% for name in splits %}
<span class="key"><i style="background:{{ split_colors[name] }}"></i>{{ name }}
{{ facts.splits.counts[name] }}</span>
{% endfor %}</p>
{% if facts.partition %}
<p>{{ facts.partition.sites | length }} sites by {{ facts.partition.scheme }}, seed
{{ facts.partition.seed }}{% if facts.partition.dropped %}, {{ facts.partition.dropped }} samples at
no site{% endif %}.</p>
{% endif %}

{% if scenes %}
<h2>Maps</h2>
<p>Classes:
{% for name, color in class_colors.items() %}
<span class="key"><i style="background:{{ color }}"></i>{{ name }}</span>
{% endfor %}</p>
{% if facts.sites | length > 1 %}
<p>Sites:
{% for name, color in site_colors.items() %}
<span class="key"><i style="background:{{ color }}"></i>{{ name }}</span>
{% endfor %}</p>
{% endif %}
<p>
{% for name in ['splits', 'sites', 'blocks'] %}
{% if name != 'sites' or facts.sites | length > 1 %}
<label><input type="checkbox" checked
onchange="document.body.classList.toggle('hide-{{ name }}', !this.checked)"> {{ name }}</label>
{% endif %}
{% endfor %}</p>
{% for scene in scenes %}
<h3>{{ scene.name }} <span class="soft">{{ scene.samples }} samples, one pixel of the picture is
{{ scene.step }} px</span></h3>
<div class="maps">
{% set shown = [scene.width, 360] | min %}
{% set tall = (shown * scene.height / scene.width) | round | int %}
{% for name, image in scene.layers %}
<figure><figcaption>{{ name }}</figcaption>
<div class="stack" style="width:{{ shown }}px;height:{{ tall }}px">
<img src="{{ image }}" alt="{{ name }} of {{ scene.name }}"></div></figure>
{% endfor %}
{% for over, drawn in scene.overlays if over != 'blocks' %}
<figure><figcaption>{{ over }} and blocks over {{ scene.layers[0][0] }}</figcaption>
<div class="stack" style="width:{{ shown }}px;height:{{ tall }}px">
<img src="{{ scene.layers[0][1] }}" alt="">
<img class="o-{{ over }}" src="{{ drawn }}" alt="{{ over }} of {{ scene.name }}">
<img class="o-blocks" src="{{ scene.overlays[-1][1] }}" alt="blocks of {{ scene.name }}">
</div></figure>
{% endfor %}
</div>
{% endfor %}
{% if more_scenes %}<p class="soft">{{ more_scenes }} more scenes are not drawn.</p>{% endif %}
{% endif %}

<h2>Classes</h2>
<table>
<tr><th>class</th>
{% for site in facts.sites %}<th>{{ site }}</th><th class="n"></th>{% endfor %}</tr>
{% for row in classes %}
<tr><td><span class="key"><i style="background:{{ class_colors[row.name] }}"></i>{{ row.name }}
</span></td>
{% for site in row.sites %}
<td><div class="bar">{% for split, count, width in site.bars %}<span
style="width:{{ '%.2f' | format(width) }}%;background:{{ split_colors[split] }}"
title="{{ split }} {{ count }}"></span>{% endfor %}</div></td><td class="n">{{ site.count }}</td>
{% endfor %}</tr>
{% endfor %}
</table>

<h2>Bands</h2>
<p class="soft">Valid pixels of the train split, as stored; histograms are of a sample.</p>
<table>
<tr><th>layer</th><th>band</th><th>type</th><th class="n">nodata</th><th class="n">mean</th>
<th class="n">std</th><th class="n">min</th><th class="n">max</th><th class="n">pixels</th>
<th class="n">scale</th><th class="n">offset</th><th>histogram</th></tr>
{% for band in bands %}
<tr><td>{{ band.modality }}</td><td>{{ band.band }}</td><td>{{ band.dtype }}</td>
<td class="n">{{ '' if band.nodata is none else '%g' | format(band.nodata) }}</td>
{% for key in ['mean', 'std', 'min', 'max'] %}
<td class="n">{{ '%.5g' | format(band[key]) }}</td>{% endfor %}
<td class="n">{{ band.count }}</td>
<td class="n">{{ '' if band.scale == 1 else '%g' | format(band.scale) }}</td>
<td class="n">{{ '' if band.offset == 0 else '%g' | format(band.offset) }}</td>
<td class="chart">{{ band.chart | safe }}</td></tr>
{% endfor %}
</table>

<h2>Examples</h2>
{% for row in examples %}
<h3>{{ row.name }} <span class="soft">{{ row.count }}</span></h3>
{% if row.sheet %}<img class="sheet" src="{{ row.sheet }}" alt="samples of {{ row.name }}">
{% else %}<p class="soft">no sample</p>{% endif %}
{% endfor %}

<h2>What was left out, and why</h2>
{% if refused %}
<table><tr><th>refused</th><th>reason</th></tr>
{% for item in refused %}
<tr><td>{{ item.path }}</td><td class="reason">{{ item.reason }}</td></tr>
{% endfor %}</table>
{% else %}<p>Nothing was refused.</p>{% endif %}
{% if facts.left_out.values() | sum %}
<p>Windows: {% for why, count in facts.left_out.items() if count %}{{ count }}
{{ why | replace('_', ' ') }}{{ ', ' if not loop.last }}{% endfor %}.</p>
{% endif %}
{% if passed %}
<h3>Passed over</h3>
<table>{% for item in passed %}
<tr><td>{{ item.path }}</td><td>{{ item.reason }}</td></tr>{% endfor %}</table>
{% endif %}
{% if facts.notes or facts.splits.notes %}
<h3>Notes</h3>
<ul>{% for note in facts.notes + facts.splits.notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% endif %}
</body>
</html>
"""
