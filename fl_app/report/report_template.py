"""The report's Jinja template.

It is a Python string because a Flower app bundle carries ``.py`` files only.
"""

from __future__ import annotations

TEMPLATE = """{% macro bar(share, interval) %}<span class="bar" aria-hidden="true"><i
 style="width:{{ "%.1f"|format(100 * (share or 0)) }}%"></i>{% if interval %}<b
 style="left:{{ "%.1f"|format(100 * interval.low) }}%;width:
{{- "%.1f"|format(100 * (interval.high - interval.low)) }}%"></b>{% endif %}</span>{% endmacro %}
{% macro fewer(dense, sent) %}{{ (dense / sent if sent and dense else none)|times }}{% endmacro %}
{% set sent = summary.bytes_up + summary.bytes_down %}
{% set dense = summary.dense_bytes_up + summary.dense_bytes_down %}
{% set imagery_title = "Test chips" if imagery.gallery else "Maps" %}
{% set unit = imagery.unit %}
<header>
<p class="kind">Federated training run{{ mark() }}</p>
<h1>{{ method }} on {{ place }}</h1>
<p class="lead">{{ lead }}</p>
{% if synthetic %}
<p class="note"><strong>Synthetic data.</strong> The imagery was generated to show and test the
method. The figures compare methods with one another; they say nothing about real land cover.</p>
{% endif %}
{% if interim %}
<p class="note"><strong>The run is not complete.</strong> This page shows it after round
{{ summary.rounds }} of {{ run.config.settings.rounds }}; it is renewed as the run goes on, and
<code>{{ follow_command }}</code> follows it.</p>
{% endif %}
<div class="headline">
<div><h2>{{ "Latest model" if interim else "Final model" }}, test chips of all sites</h2><dl>
{{ fact("accuracy" ~ (" (95 %: " ~ accuracy_interval|limits ~ ")" if accuracy_interval else ""),
 summary.accuracy|percent, "first") }}
{{ fact("balanced accuracy", summary.balanced_accuracy|percent) }}
{{ fact("kappa", summary.kappa|decimal) }}
{% if summary.best %}
{{ fact("best round by validation", summary.best.round) }}
{% endif %}
</dl></div>
<div><h2>Sent over the network</h2><dl>
{{ fact("in both directions", sent|bytes, "first") }}
{{ fact("up, from the sites", summary.bytes_up|bytes) }}
{{ fact("down, to the sites", summary.bytes_down|bytes) }}
</dl></div>
<div><h2>Fewer bytes than dense FedAvg</h2><dl>
{{ fact("in total", fewer(dense, sent), "first") }}
{{ fact("up", fewer(summary.dense_bytes_up, summary.bytes_up)) }}
{{ fact("down", fewer(summary.dense_bytes_down, summary.bytes_down)) }}
</dl></div>
</div>
<nav aria-label="Sections">
<a href="#accuracy">Accuracy and loss</a><a href="#map">{{ imagery_title }}</a>
<a href="#classes">Classes</a><a href="#site-scores">Sites</a><a href="#sites">Bytes</a>
<a href="#ratios">Layer ratios</a><a href="#time">Time</a><a href="#refused">Refused replies</a>
<a href="#each-round">Rounds</a><a href="#settings">Settings</a>
</nav>
</header>
<main>
<section id="accuracy">
<h2>Accuracy and loss{{ mark() }}</h2>
<p class="sub">The sites score the global model on their test chips. Byte counts include indices,
headers, and layers sent whole.{% if summary.best %} The model of round
{{ summary.best.round }} has the best balanced accuracy on their validation chips,
{{ summary.best.val_balanced_accuracy|percent }}. On the test chips, which took no part in the
choice, its accuracy is {{ summary.best.accuracy|percent }} and its balanced accuracy
{{ summary.best.balanced_accuracy|percent }}; it is in <code>best.safetensors</code>.{% endif %}</p>
{% if summary.privacy %}
<p class="sub">Differential privacy of a site: ε = {{ summary.privacy.epsilon|decimal }} at δ =
{{ summary.privacy.delta }}, for the models of {{ summary.privacy.releases|count }} rounds (noise
multiplier {{ summary.privacy.noise_multiplier }}, clip {{ summary.privacy.clip }}). Scores, counts,
bytes and the choice of the best round, which this page shows, are not covered.</p>
{% endif %}
<div class="pair">
{{ plot(curve_rounds, "After each round; round 0 is the model before training."
 ~ (" Band: 95 % of the accuracy (Wilson)." if banded else "")) }}
{% if curve_bytes %}
{{ plot(curve_bytes, "Against the bytes sent, on a logarithmic axis."
 ~ ("" if baseline else " The dotted line marks what float32 FedAvg would have sent both ways, in"
 ~ " the same rounds and with the same sites: " ~ dense|bytes ~ ".")) }}
{% else %}<p class="quiet">No bytes were sent.</p>{% endif %}
{% if curve_loss %}
{{ plot(curve_loss, "Cross-entropy. Test and validation: of the global model after each round."
 ~ " Training: mean over the chips that the sites trained on in the round, while their models"
 ~ " changed.") }}
{% endif %}
<div>
{% if baseline %}
<h3>Beside {{ baseline.folder.resolve().name }}</h3>
{% call table("The run beside its baseline", ["figure"], [method, baseline.summary.method],
 kind="compact") %}
{% for name, ours, theirs in beside %}
<tr><th scope="row">{{ name }}</th><td class="n">{{ ours }}</td><td class="n">{{ theirs }}</td></tr>
{% endfor %}
{% endcall %}
{% if baseline.summary.dataset != summary.dataset or baseline.summary.rounds != summary.rounds %}
<p class="sub">The two runs have other data or other rounds, so that more than the method
differs.</p>
{% endif %}
{% endif %}
{% if intervals %}
<h3>How certain the scores are</h3>
{% call table("Intervals of the scores", ["score"], ["value", "95 %"], last="by", kind="compact") %}
<tr><th scope="row">accuracy</th><td class="n">{{ summary.accuracy|percent }}</td>
<td class="n">{{ accuracy_interval|limits }}</td><td>Wilson</td></tr>
<tr><th scope="row">balanced accuracy</th><td class="n">{{ summary.balanced_accuracy|percent }}</td>
<td class="n">{{ intervals.balanced_accuracy|limits }}</td><td>bootstrap</td></tr>
<tr><th scope="row">kappa</th><td class="n">{{ summary.kappa|decimal }}</td>
<td class="n">{{ intervals.kappa.low|decimal }}–{{ intervals.kappa.high|decimal }}</td>
<td>bootstrap</td></tr>
{% endcall %}
<p class="sub">The intervals say what other test chips would change, if chips were independent.
Neighbors resemble each other, so that the true ones are wider. What another seed would change is
not in them: <code>rsdgc compare</code> shows it.</p>
{% endif %}
</div>
</div>
</section>

<section id="map">
<h2>{{ imagery_title }}{{ mark() }}</h2>
{% if imagery.maps %}
<p class="sub">The model of this run on scenes that have test {{ unit }}. <strong>The frame encloses
the test {{ unit }}</strong>; the model was trained on the train {{ unit }}, so that to be right
there proves little.{% if imagery.maps|length < imagery.num_scenes %}
 Drawn: {{ imagery.maps|length }} of {{ imagery.num_scenes }} scenes, those with most classes first;
 <code>{{ report_command }} --scenes {{ imagery.num_scenes }}</code> draws all.{% endif %}</p>
<div class="scenes" role="radiogroup" aria-label="Scene">
{% for m in imagery.maps %}{% set scene_number = loop.index %}
<div class="choice"><input type="radio" name="scene" id="scene-{{ loop.index }}"
{%- if m.scene == imagery.first %} checked{% endif %}>
<label for="scene-{{ loop.index }}">{{ m.scene }}</label>
<div class="scene">
<h3>{{ m.scene }}</h3>
<p class="sub">{{ m.num_test|count }} test {{ unit }} and {{ m.num_train|count }} train {{ unit }},
 one cell each. The model is right for {{ m.test_accuracy|percent }} of the test {{ unit }}
 (95 %: {{ m.interval|limits }}, Wilson) and for {{ m.train_accuracy|percent }} of the train
 {{ unit }}.{% if m.num_other %}
 The other {{ m.num_other|count }} {{ unit }} are in the validation split or in the buffer between
 the splits.{% endif %}</p>
<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>
<path id="test-area-{{ loop.index }}" vector-effect="non-scaling-stroke"
 d="{{ m.outline }}"/></defs></svg>
<div class="maps">
{% for each in m.panels %}
{% call map_panel(m.frame, m.width, m.height, each.title, each.alt, bar=each.bar,
 scale=loop.first) %}
<image href="{{ each.uri }}" width="{{ m.width }}" height="{{ m.height }}"
 preserveAspectRatio="none"{% if each.cells %} class="cells"{% endif %}/>
<use href="#test-area-{{ scene_number }}" class="halo"/>
<use href="#test-area-{{ scene_number }}" class="edge"/>
{% endcall %}
{% endfor %}
</div>
<ul class="legend" aria-label="Legend">
{% for entry in m.legend %}
<li><span class="swatch" style="background:{{ entry.color }}"></span>{{ entry.name }}
<span class="quiet">{{ entry.reference|count }} → {{ entry.predicted|count }}</span></li>
{% endfor %}
<li><span class="swatch framed"></span>test {{ unit }}</li>
<li><span class="swatch" style="background:{{ right_color }}"></span>right</li>
<li><span class="swatch" style="background:{{ wrong_color }}"></span>wrong
<span class="quiet">(faded: trained on)</span></li>
</ul>
<p class="sub">Counts after the class names: {{ unit }} in the reference → predicted.
{{ place_line(m.frame) }}
{% if m.table.rows|length <= 2000 %}{{ files("map " ~ loop.index, m.table) }}{% endif %}</p>
</div></div>
{% endfor %}
</div>
{% elif imagery.gallery %}{% set g = imagery.gallery %}
<p class="sub">The model is right for {{ g.num_right|count }} of
{{ (g.num_right + g.num_wrong)|count }} test chips and wrong for {{ g.num_wrong|count }}. The chips
below come from each class in turn, so their numbers are not in proportion.</p>
{% for title, thumbs, wrong in (("Wrong", g.wrong, true), ("Right", g.right, false)) if thumbs %}
<h3>{{ title }}</h3>
<ul class="thumbs">
{% for thumb in thumbs %}
<li><img src="{{ thumb.uri }}" decoding="async" alt="Test chip of class {{ thumb.reference }}">
<span>{{ thumb.reference }}{% if wrong %} →
<strong class="bad">{{ thumb.predicted }}</strong>{% endif %}</span></li>
{% endfor %}
</ul>
{% endfor %}
{% else %}<p class="quiet">{{ imagery.absent }}</p>{% endif %}
{% if imagery.overview %}
<h3>Where the sites are</h3>
{{ plot(imagery.overview, "The ground of each site’s samples, in longitude and latitude.",
 "wide") }}
{% endif %}
</section>

<section id="classes">
<h2>Classes{{ mark() }}</h2>
{% if confusion %}
<p class="sub">Final model, {{ num_scored|count }} test chips of all sites.</p>
<div class="{{ "pair matrix" if scores|length <= 12 else "" }}">
{{ plot(confusion, "Confusion matrix in percent of each reference class: a row adds up to 100."
 ~ " Right predictions are on the diagonal.", "wide" if scores|length > 16 else "") }}
<div>{% if confused %}
<h3>Most frequent mistakes</h3>
{% call table("Most frequent mistakes", ["reference", "predicted"], ["chips", "of the class"],
 kind="compact" if scores|length > 12 else "") %}
{% for pair in confused %}
<tr><th scope="row">{{ pair.reference }}</th><td>{{ pair.predicted }}</td>
<td class="n">{{ pair.count|count }}</td><td class="n">{{ pair.share|percent }}</td></tr>
{% endfor %}
{% endcall %}
{% endif %}</div></div>
{% if summary.by_modalities %}
<h3>By the modalities that sites have</h3>
{% call table("Scores by the modalities that sites have", ["modalities", "sites"], ["test chips",
 "accuracy", "balanced accuracy", "kappa"]) %}
{% for group in summary.by_modalities %}
<tr><th scope="row">{{ group.modalities|join(", ") }}</th><td>{{ group.sites|join(", ") }}</td>
<td class="n">{{ group.num_test|count }}</td><td class="n">{{ group.accuracy|percent }}</td>
<td class="n">{{ group.balanced_accuracy|percent }}</td>
<td class="n">{{ group.kappa|decimal }}</td></tr>
{% endfor %}
{% endcall %}
{% endif %}
<details{% if scores|length <= 24 %} open{% endif %}><summary>Accuracy per class</summary>
{% call table("Accuracy per class", ["class"], ["test chips", "recall (producer’s accuracy)",
 "95 %", "precision (user’s accuracy)", "95 %", "F1"]) %}
{% for score in scores %}
<tr><th scope="row">{{ score.name }}</th><td class="n">{{ score.reference|count }}</td>
<td class="n">{{ score.recall|percent }}{{ bar(score.recall, score.recall_interval) }}</td>
<td class="n quiet">{{ score.recall_interval|limits }}</td>
<td class="n">{{ score.precision|percent }}</td>
<td class="n quiet">{{ score.precision_interval|limits }}</td>
<td class="n">{{ score.f1|decimal }}</td></tr>
{% endfor %}
{% endcall %}
<p class="sub">95 %: Wilson&rsquo;s interval. {{ files("classes", class_table) }}</p></details>
{% elif interim %}<p class="quiet">The classes follow when the run is complete.</p>
{% else %}<p class="quiet">The run recorded no confusion matrix.</p>{% endif %}
</section>

<section id="site-scores">
<h2>Sites{{ mark() }}</h2>
{% if site_scores|selectattr("accuracy", "number")|list %}
<p class="sub">The final model on each site&rsquo;s own test chips.{% if summary.by_site %}
 95 %: Wilson&rsquo;s interval of the accuracy.{% else %}
 This run did not record the counts behind the accuracies, so that they have no intervals.
{% endif %}</p>
<div class="{{ "pair" if summary.classes|length <= 12 else "" }}">
{% if site_accuracy %}
{{ plot(site_accuracy, "Accuracy at each site, with its interval and the count of test chips."
 ~ " Dotted: all sites.") }}
{% endif %}
{% if site_recall %}
{{ plot(site_recall, "Recall of each class at each site, in percent; – where a site has no test"
 ~ " chip of the class.", "wide") }}
{% endif %}
</div>
<h3>Scores</h3>
{% call table("Scores of each site", ["site"], ["test chips", "accuracy", "95 %", "balanced",
 "kappa"]) %}
{% for row in site_scores %}
<tr><th scope="row">{{ row.site }}</th><td class="n">{{ row.num_test|count }}</td>
<td class="n">{{ row.accuracy|percent }}</td><td class="n quiet">{{ row.interval|limits }}</td>
<td class="n">{{ row.balanced_accuracy|percent }}</td>
<td class="n">{{ row.kappa|decimal }}</td></tr>
{% endfor %}
{% endcall %}
<p class="sub">{{ files("site scores", site_table) }}</p>
{% else %}<p class="quiet">No site has scored the final model.</p>{% endif %}
</section>

<section id="sites">
<h2>Bytes per site{{ mark() }}</h2>
<p class="sub">Totals of the run, including refused uploads and the final evaluation.
{% if summary.resyncs %} Replicas that were out of step received the whole model again
 {{ summary.resyncs|count }}×: {{ summary.bytes_resync|bytes }}.{% endif %}
{% if sites|length > max_sites %}
 The chart shows the {{ max_sites }} sites with the most bytes.{% endif %}</p>
{% if site_plot %}
{{ plot(site_plot, "Left: up, from the site, by group of layers. Right: down, to the site.",
 "wide") }}
{% else %}<p class="quiet">Nothing was sent.</p>{% endif %}
<details{% if sites|length <= 8 %} open{% endif %}><summary>Table of sites</summary>
{% call table("Table of sites", ["site"], ["training samples", "up", "down", "accepted",
 "clipped", "refused", "no reply"]) %}
{% for site in sites %}
<tr><th scope="row">{{ site.site }}</th><td class="n">{{ site.num_examples|count }}</td>
<td class="n">{{ site.bytes_up|bytes }}</td><td class="n">{{ site.bytes_down|bytes }}</td>
<td class="n">{{ site.accepted|count }}</td>
<td class="n{% if site.clipped %} bad{% endif %}">{{ site.clipped|count }}</td>
<td class="n{% if site.refused %} bad{% endif %}">{{ site.refused|count }}</td>
<td class="n{% if site.silent %} bad{% endif %}">{{ site.silent|count }}</td></tr>
{% endfor %}
{% endcall %}</details>
{% if outliers %}
<h3>Far from the other sites</h3>
<p class="sub">Figures that a site reported last, and that are far from the median over the sites.
Such a site may have other data, may be mistaken, or may not tell the truth: look at it.</p>
{% call table("Figures far from those of the other sites", ["site", "figure"], ["reported",
 "median of the sites"], kind="compact") %}
{% for outlier in outliers %}
<tr><th scope="row">{{ outlier.site }}</th><td>{{ outlier.figure|replace("_", " ") }}</td>
<td class="n bad">{{ "not finite" if outlier.value is none else outlier.value|decimal }}</td>
<td class="n">{{ outlier.median|decimal }}</td></tr>
{% endfor %}
{% endcall %}
{% endif %}
</section>

<section id="ratios">
<h2>Layer ratios</h2>
{% if ratio_plot %}
<p class="sub">The share of each layer&rsquo;s values that a site sends. The server sets the shares
for each round within one budget.</p>
{{ plot(ratio_plot, ratio_caption, "wide") }}
{% else %}
<p class="quiet">Every layer was sent whole in every round: {{ method }} has no ratios.</p>
{% endif %}
</section>

<section id="time">
<h2>Time</h2>
{% call table("Time of the run", [], ["whole run", "before the first round", "rounds",
 "final evaluation", "a site’s work in a round, median"], kind="compact") %}
<tr><td class="n">{{ time.total|seconds }}</td><td class="n">{{ time.start|seconds }}</td>
<td class="n">{{ time.rounds|seconds }}</td><td class="n">{{ time.end|seconds }}</td>
<td class="n">{{ time.site_work|seconds }}</td></tr>
{% endcall %}
{% if time_plot %}
{{ plot(time_plot, "A round lasts until its slowest reply is here, and is split along that site."
 ~ " Its work: score the model, train it, compress the change; other work: apply the download, keep"
 ~ " the state. Transfer: both ways, with the wait for a free processor where sites share a"
 ~ " machine.", "wide") }}
{% endif %}
{% if time_parts %}
<h3>All rounds together</h3>
{% call table("Where the time of the rounds went", ["part"], ["time", "share"], kind="compact") %}
{% for name, seconds, share in time_parts %}
<tr><th scope="row">{{ name }}</th><td class="n">{{ seconds|seconds }}</td>
<td class="n">{{ share|percent }}</td></tr>
{% endfor %}
{% endcall %}
{% endif %}
{% if time.start is none %}
<p class="sub">This run did not record when replies arrived, so that rounds are split at the longest
work of a site.</p>{% endif %}
</section>

<section id="refused">
<h2>Refused replies</h2>
{% if refusals %}
<p class="sub">Uploads, and scores of the final model, that were requested and not used, by
reason.</p>
{% call table("Refused replies by reason", ["reason"], ["replies"], kind="compact") %}
{% for reason, number in refusals %}
<tr><th scope="row">{{ reason }}</th><td class="n">{{ number|count }}</td></tr>
{% endfor %}
{% endcall %}
{% else %}
<p class="quiet">None. Every site that was asked sent an upload in every round.</p>
{% endif %}
{% if summary.suspended %}
<p class="sub">Sites that were set aside for some rounds, as their replies were refused again and
again.</p>
{% call table("Sites set aside", ["site"], ["times"], kind="compact") %}
{% for site, number in summary.suspended|dictsort %}
<tr><th scope="row">{{ site }}</th><td class="n">{{ number|count }}</td></tr>
{% endfor %}
{% endcall %}
{% endif %}
{% if summary.left_out %}
<p class="sub">Nodes that took no part at the end of the run.</p>
{% call table("Nodes left out", ["node", "reason"], [], last="in full", kind="compact") %}
{% for left in summary.left_out %}
<tr><th scope="row">{{ left.name }}</th><td>{{ left.reason }}</td><td>{{ left.detail }}</td></tr>
{% endfor %}
{% endcall %}
{% endif %}
{% if summary.clipped %}
<p class="sub">Of {{ summary.clipped|count }} accepted uploads the model took a share only, because
they were much longer than the others (<code>clip-updates</code>) or the aggregation rule left them
out: {{ clipped }}.</p>
{% endif %}
</section>

<section id="each-round">
<h2>Rounds{{ mark() }}</h2>
<details><summary>Table of rounds</summary>
{% call table("Table of rounds", [], ["round", "accuracy", "balanced accuracy", "kappa",
 "loss", "up", "down", "fewer up than dense", "uploads", "time"], last="refused or missing") %}
{% for line, absent in rounds %}
<tr><th scope="row" class="n">{{ line.round }}</th><td class="n">{{ line.accuracy|percent }}</td>
<td class="n">{{ line.balanced_accuracy|percent }}</td><td class="n">{{ line.kappa|decimal }}</td>
<td class="n">{{ line.loss|decimal }}</td><td class="n">{{ line.bytes_up|bytes }}</td>
<td class="n">{{ line.bytes_down|bytes }}</td>
<td class="n">{{ fewer(line.dense_bytes_up, line.bytes_up) }}</td>
<td class="n">{{ line.sites }}</td><td class="n">{{ line.seconds|seconds }}</td>
<td>{% for visit in absent %}<span class="bad">{{ visit.site }}</span>
({{ visit.reason or "no reply" }}){% if not loop.last %}, {% endif %}{% else %}<span
 class="quiet">&ndash;</span>{% endfor %}</td></tr>
{% endfor %}
{% endcall %}
<p class="sub">{{ files("each round", rounds_table) }}</p></details>
</section>

<section id="settings">
<h2>Run it again</h2>
<p class="sub">The command of this run. On the same machine, the same seed reproduces the data, the
splits and the initial model.</p>
<pre><code>{{ command }}</code></pre>
<details><summary>All settings</summary><div class="scroll"><table class="compact"><tbody>
{% for key, value in settings %}
<tr><th scope="row"><code>{{ key }}</code></th><td>{{ value }}</td></tr>
{% endfor %}
</tbody></table></div></details>
<details><summary>The model&rsquo;s {{ run.config.layers|length }} layers</summary>
{% set num_values = run.num_values or 1 %}
{% call table("Layers of the model", ["layer", "shape"], ["values", "of the model"]) %}
{% for layer in run.config.layers %}
<tr><th scope="row"><code>{{ layer.name }}</code></th><td>{{ layer.shape|join(" \u00d7 ") }}</td>
<td class="n">{{ layer.size|count }}</td>
<td class="n">{{ (layer.size / num_values)|percent }}</td></tr>
{% endfor %}
{% endcall %}
</details>
<details><summary>Versions</summary><div class="scroll"><table class="compact"><tbody>
{% for name, version in run.config.versions.items() %}
<tr><th scope="row">{{ name }}</th><td>{{ version }}</td></tr>
{% endfor %}
</tbody></table></div></details>
</section>
</main>
<footer>
<p>Made from the run folder <code>{{ run.folder.resolve().name }}</code>. RS-DGC: Xie, Wang, Ma,
Li, Li, “RS-DGC: Exploring Neighborhood Statistics for Dynamic Gradient Compression on Remote
Sensing Image Interpretation”, IEEE TGRS 2024, arXiv 2312.17530.</p>
</footer>"""
