"""The Jinja template of ``compare.html``.

It is a Python string because a Flower app bundle carries ``.py`` files only.
"""

from __future__ import annotations

TEMPLATE = """{% macro p(value) %}{% if value is none %}–{% elif value < 0.001 %}&lt;&nbsp;.001
{%- else %}{{ ("%.3f"|format(value))[1:] if value < 1 else "1" }}{% endif %}{% endmacro %}
{% macro points(value) %}{{ "%+.1f"|format(100 * value)|replace("-", "−") }}{% endmacro %}
<header>
<p class="kind">Comparison{{ mark() }}</p>
<h1>{{ methods|length }} method{{ "" if methods|length == 1 else "s" }} on {{ place }}</h1>
<p class="lead">{{ num_runs }} run{{ "" if num_runs == 1 else "s" }} of {{ first.summary.rounds }}
rounds with {{ first.model }} at {{ first.summary.num_sites }} sites, on the same data; runs with
the
same seed start from the same model.{% if num_runs < total %} Complete: {{ num_runs }} of
{{ total }} runs.{% endif %}</p>
{% if synthetic %}
<p class="note"><strong>Synthetic data.</strong> The imagery was generated to show and test the
method. The figures compare methods with one another; they say nothing about real land cover.</p>
{% endif %}
<nav aria-label="Sections"><a href="#scores">Scores</a><a href="#curves">Curves</a>
<a href="#differences">Differences</a><a href="#runs">Runs</a></nav>
</header>
<main>
<section id="scores">
<h2>Scores{{ mark() }}</h2>
<p class="sub">Of the final models on all test chips: mean over the seeds{% if num_seeds > 1 %} ±
standard deviation between seeds, in points{% else %}. One seed says nothing about the spread
between
seeds: add some with <code>--seeds 0,1,2</code>{% endif %}.</p>
{% call table("Scores by method", ["method"], ["server momentum", "accuracy", "balanced", "kappa",
 "up", "down", "fewer in total", "time", "seeds"]) %}
{% for row in methods %}
<tr><th scope="row"><span class="named"><span class="swatch" style="background:{{ row.color }}">
</span>{{ row.name.text }}</span></th>
<td class="n">{{ row.momentum }}</td>
<td class="n">{{ row.accuracy|percent }}{{ row.spread }}</td>
<td class="n">{{ row.balanced|percent }}</td><td class="n">{{ row.kappa|decimal }}</td>
<td class="n">{{ row.up|bytes }}</td><td class="n">{{ row.down|bytes }}</td>
<td class="n">{{ row.fewer|times }}</td><td class="n">{{ row.seconds|seconds }}</td>
<td class="n">{{ row.seeds|length }}</td></tr>
{% endfor %}
{% endcall %}
{{ plot(final, "Each dot is a run; the bar is the mean, the band one standard deviation between"
 ~ " seeds.") }}
</section>

<section id="curves">
<h2>Curves{{ mark() }}</h2>
<p class="sub">Lines are means over the seeds{% if num_seeds > 1 %}, bands reach from the lowest to
the highest seed{% endif %}.</p>
<div class="pair">
{% if accuracy %}{{ plot(accuracy, "Accuracy after each round.") }}{% endif %}
{% if sent %}{{ plot(sent, "Accuracy against the bytes sent, on a logarithmic axis.") }}{% endif %}
{% if loss %}{{ plot(loss, "Cross-entropy on the test chips after each round.") }}{% endif %}
{% if balanced %}{{ plot(balanced, "Balanced accuracy: the mean recall of the classes.") }}
{% endif %}
</div>
</section>

<section id="differences">
<h2>Differences{{ mark() }}</h2>
{% if pairs %}
<p class="sub">Each method less {{ pairs[0].second.text }}, seed by seed, in points of accuracy.</p>
{% call table("Differences between methods over seeds", ["method"], ["mean difference",
 "standard deviation", "seeds", "p over seeds"], kind="compact") %}
{% for pair in pairs %}
<tr><th scope="row">{{ pair.first.text }}</th><td class="n">{{ points(pair.mean) }}</td>
<td class="n">{{ "–" if pair.spread is none else "%.1f"|format(100 * pair.spread) }}</td>
<td class="n">{{ pair.seeds|length }}</td><td class="n">{{ p(pair.p) }}</td></tr>
{% endfor %}
{% endcall %}
<p class="sub"><strong>p over seeds</strong>: exact permutation test of the signs of the
differences,
two-sided (Fisher). It asks whether the <em>methods</em> differ beyond what seeds change. With few
seeds it cannot be small: at least .25 with three, .062 with five, .031 with six.</p>
{% if tested %}
<h3>Model against model</h3>
{% call table("Differences between the models of one seed", ["method"], ["seed", "difference",
 "95\u00a0% on these chips", "right alone", "the other alone", "chips", "McNemar p", "adjusted
p"]) %}
{% for pair in pairs %}{% for seed in pair.seeds %}
<tr><th scope="row">{{ pair.first.text }}</th><td class="n">{{ seed.seed }}</td>
<td class="n">{{ points(seed.difference) }}</td>
<td class="n quiet">{% if seed.interval %}{{ points(seed.interval.low) }} to
 {{ points(seed.interval.high) }}{% else %}–{% endif %}</td>
<td class="n">{{ seed.only_first|count }}</td><td class="n">{{ seed.only_second|count }}</td>
<td class="n">{{ seed.num_chips|count }}</td><td class="n">{{ p(seed.p) }}</td>
<td class="n">{{ p(seed.adjusted_p) }}</td></tr>
{% endfor %}{% endfor %}
{% endcall %}
<p class="sub"><strong>McNemar p</strong>: exact, two-sided, of the chips that one of the two models
alone gets right. It asks whether these two <em>models</em> differ beyond what other test chips
would
change, and says nothing about other seeds. Adjusted: by Holm, for all tests of this table.
Interval:
Bonett and Price. Both take chips as independent; neighbors in a scene are not, so that true
intervals are wider. The models are those that the runs delivered, on the test chips of all
sites.</p>
{% elif absent %}
<p class="quiet">Models could not be compared chip by chip: {{ absent }}</p>
{% endif %}
{% else %}<p class="quiet">There is one method, or no seed that two methods have in common.</p>
{% endif %}
</section>

<section id="runs">
<h2>Runs{{ mark() }}</h2>
{% call table("Runs", ["run"], ["seed", "accuracy", "balanced", "up", "down", "fewer in total",
 "time"]) %}
{% for trial, run, reported in runs %}
<tr><th scope="row">{% if reported %}<a href="{{ trial.folder|urlencode }}/report.html">
{{- trial.folder }}</a>{% else %}{{ trial.folder }}{% endif %}</th>
<td class="n">{{ trial.seed }}</td><td class="n">{{ run.summary.accuracy|percent }}</td>
<td class="n">{{ run.summary.balanced_accuracy|percent }}</td>
<td class="n">{{ run.summary.bytes_up|bytes }}</td>
<td class="n">{{ run.summary.bytes_down|bytes }}</td>
<td class="n">{{ run.summary.compression_total|times }}</td>
<td class="n">{{ run.summary.seconds|seconds }}</td></tr>
{% endfor %}
{% endcall %}
</section>
</main>
<footer><p>The figures of every run are in <code>compare.csv</code> beside this
page.</p></footer>"""
