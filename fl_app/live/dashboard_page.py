"""The page of ``rsdgc dashboard``: bars, scores, curves and tables of a run, as it is now.

The page is drawn as a whole. A script fetches it again and again and replaces the parts that have
changed, so that what the page shows is decided in one place, its template.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from markupsafe import Markup

from data_prep.pictures.html_page import render_page
from fl_app.live.progress import Progress, ProgressReader, check_run_folder
from fl_app.methods import METHODS
from fl_app.report.learning_curves import accuracy_by_bytes, accuracy_by_round, loss_by_round
from fl_app.runs.records import REPORT_FILE
from rsdgc.errors import RunFolderError
from rsdgc.time_text import time_left

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)
"""The page runs one script, and speaks to the server that it came from."""

SCRIPT_PATH = "/dashboard.js"
REPORT_PATH = "/report.html"

ROUNDS_SHOWN = 30
SITES_SHOWN = 200
REDRAW_S = 10.0
"""The time left passes without news from the run: the page is drawn again after so long."""

SCRIPT = """"use strict";
// Fetch the page again and put the parts that have changed into place.
const RUNNING_MS = 2000;
const WAITING_MS = 10000;
const parts = () => document.querySelectorAll("[data-live]");
const state = () => document.getElementById("state").dataset.state;

function replacePart(part, fresh) {
  if (fresh.innerHTML === part.innerHTML) return;
  const places = [...part.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
  part.replaceChildren(...fresh.childNodes);
  part.querySelectorAll(".scroll").forEach((each, i) => { each.scrollLeft = places[i] || 0; });
}

async function renew() {
  const answer = await fetch("/", { cache: "no-store" });
  if (!answer.ok) throw new Error(answer.statusText);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts()) {
    const fresh = page.getElementById(part.id);
    if (fresh === null) continue;
    if (fresh.dataset.state) part.dataset.state = fresh.dataset.state;
    replacePart(part, fresh);
  }
  document.title = page.title;
}

async function follow() {
  const lost = document.getElementById("lost");
  let pause = WAITING_MS;
  if (!document.hidden) {
    try {
      await renew();
      lost.hidden = true;
      if (state() === "complete") return;
      if (state() === "running") pause = RUNNING_MS;
    } catch {
      if (lost.hidden) {
        lost.textContent = "The dashboard does not answer. This page shows the run as it was at "
          + new Date().toLocaleTimeString() + ".";
        lost.hidden = false;
      }
    }
  }
  setTimeout(follow, pause);
}

if (state() !== "complete") setTimeout(follow, RUNNING_MS);
"""

TEMPLATE = """{% macro fewer(dense, sent) %}{{ (dense / sent if sent and dense else none)|times }}{%
 endmacro %}
<header>
<p class="kind">Federated training run{{ mark() }}</p>
<h1 id="name" data-live>{{ name }}</h1>
<p id="lost" class="note" role="alert" hidden></p>
<div id="state" data-live data-state="{{ progress.state }}">
<p class="lead" role="status"><strong>{{ stage }}</strong>{% if left %} · {{ left }}{% endif %}
</p>
{% if error %}<p class="note">{{ error }}</p>{% endif %}
{% if progress.last_round %}
<p class="bar-text">{{ done }} of {{ progress.last_round }} rounds
<progress max="1" value="{{ "%.4f"|format(progress.share) }}"
 aria-label="Rounds that have ended"></progress></p>
{% endif %}
{% if waits %}
<p class="bar-text">{{ asked - waits }} of {{ asked }} sites have replied
<progress max="{{ asked }}" value="{{ asked - waits }}"
 aria-label="Sites that have replied in this round"></progress></p>
{% endif %}
{% if run %}{% set s = run.summary %}
{% set sent = s.bytes_up + s.bytes_down %}
{% set dense = s.dense_bytes_up + s.dense_bytes_down %}
<div class="headline">
<div><h2>{{ "Final model" if progress.summary else "Latest model" }}, test chips of all
sites</h2><dl>
{{ fact("accuracy", s.accuracy|percent, "first") }}
{{ fact("balanced accuracy", s.balanced_accuracy|percent) }}
{{ fact("loss", (scored.loss if scored else none)|decimal) }}
</dl></div>
<div><h2>Sent over the network</h2><dl>
{{ fact("in both directions", sent|bytes, "first") }}
{{ fact("up, from the sites", s.bytes_up|bytes) }}
{{ fact("down, to the sites", s.bytes_down|bytes) }}
</dl></div>
<div><h2>Fewer bytes than dense FedAvg</h2><dl>
{{ fact("in total", fewer(dense, sent), "first") }}
{{ fact("up", s.compression_up|times) }}
{{ fact("down", s.compression_down|times) }}
</dl></div>
</div>
{% endif %}
{% if has_report %}<p class="note-line"><a href="/report.html">Report</a>
<span class="quiet">{% if progress.summary %}of the whole run{% else %}as it was renewed last
{% endif %}</span></p>{% endif %}
</div>
</header>
<main>
<section><h2>Accuracy and loss{{ mark() }}</h2>
<div id="curves" data-live>
{% if curves %}
<div class="pair">
{% for curve, caption in curves %}
<figure><div class="plot" tabindex="0" role="group" aria-label="{{ caption }}">{{ curve }}</div>
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</div>
{% else %}<p class="quiet">The curves begin when the sites have scored the first model.</p>
{% endif %}
</div></section>
<section><h2>Sites</h2>
<div id="sites" data-live>
{% if sites %}
{% call table("Sites", ["site", "state"], ["accuracy", "train loss", "up", "down",
 "fewer than dense", "last work"]) %}
{% for site in sites %}
<tr><th scope="row">{{ site.name }}</th>
<td>{% if site.name in at_work %}at work{% else %}{{ site.outcome or "–" }}{% endif %}</td>
<td class="n">{{ site.accuracy|percent }}</td><td class="n">{{ site.train_loss|decimal }}</td>
<td class="n">{{ site.bytes_up|bytes }}</td><td class="n">{{ site.bytes_down|bytes }}</td>
<td class="n">{{ site.compression(progress.dense_bytes)|times }}</td>
<td class="n">{{ site.seconds|seconds }}</td></tr>
{% endfor %}
{% endcall %}
{% if hidden_sites %}<p class="sub">And {{ hidden_sites }} more.</p>{% endif %}
{% else %}<p class="quiet">No site has joined yet.</p>
{% endif %}
</div></section>
<section><h2>Rounds{{ mark() }}</h2>
<div id="rounds" data-live>
{% if rounds %}
{% call table("Rounds, the last one first", [], ["round", "sites", "accuracy",
 "balanced accuracy", "loss", "up", "fewer", "down", "fewer", "time"]) %}
{% for line in rounds %}
<tr><th scope="row" class="n">{{ line.round }}</th>
<td class="n">{{ line.sites }}{% if line.asked %} of {{ line.asked }}{% endif %}</td>
<td class="n">{{ line.accuracy|percent }}</td>
<td class="n">{{ line.balanced_accuracy|percent }}</td>
<td class="n">{{ line.loss|decimal }}</td>
<td class="n">{{ line.bytes_up|bytes }}</td>
<td class="n">{{ fewer(line.dense_bytes_up, line.bytes_up) }}</td>
<td class="n">{{ line.bytes_down|bytes }}</td>
<td class="n">{{ fewer(line.dense_bytes_down, line.bytes_down) }}</td>
<td class="n">{{ line.seconds|seconds }}</td></tr>
{% endfor %}
{% endcall %}
{% if hidden_rounds %}<p class="sub">And {{ hidden_rounds }} before them.</p>{% endif %}
{% else %}<p class="quiet">No round has ended yet.</p>
{% endif %}
</div></section>
</main>
<footer><p>Run folder <code>{{ progress.folder }}</code>. The sites score the model that they
receive, so the scores of a round are known one round later.</p></footer>
<script src="/dashboard.js" defer></script>"""


class DashboardPage:
    """Draws the page of one run; may be called by several threads.

    Parameters
    ----------
    folder : Path
        The run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reader = ProgressReader(folder)
        self._lock = threading.Lock()  # of the reader, of matplotlib, and of what follows
        self._shown: object = None
        self._page = ""
        self._drawn_at = -REDRAW_S
        self._curves_of: object = None
        self._curves: list[tuple[Markup, str]] = []

    def html(self) -> str:
        """Return the page; it is drawn again if the run has gone on."""
        with self._lock:
            error = ""
            try:
                check_run_folder(self._folder)  # it may have been deleted or moved
                progress = self._reader.read()
            except RunFolderError as damage:
                progress, error = Progress(self._folder), str(damage)
            shown = (
                *(progress.stage, progress.state, error, len(progress.waits_for)),
                *(len(progress.history), len(progress.site_entries), self._has_report()),
            )
            now = time.monotonic()
            if shown != self._shown or now - self._drawn_at > REDRAW_S:
                self._page = self._draw(progress, error)
                self._shown, self._drawn_at = shown, now
            return self._page

    def _has_report(self) -> bool:
        return (self._folder / REPORT_FILE).is_file()

    def _draw(self, progress: Progress, error: str) -> str:
        run = progress.run()
        rounds = progress.ended[::-1]
        at_work = set(progress.waits_for)
        # Who is waited for comes first where not all fit.
        sites = list(progress.sites.values())
        if len(sites) > SITES_SHOWN:
            sites.sort(key=lambda site: site.name not in at_work)
        name = f"Run {self._folder.name}"
        if progress.config is not None:
            method = str(progress.config.settings.get("method"))
            title = METHODS[method].title if method in METHODS else method
            name = f"{title} on {progress.config.data.name}"
        seconds = progress.seconds_left
        return render_page(
            TEMPLATE,
            policy=POLICY,
            title=f"{progress.stage} · {name}",
            synthetic=progress.config is not None and progress.config.data.synthetic,
            name=name,
            stage=progress.stage[:1].upper() + progress.stage[1:],
            error=error,
            progress=progress,
            run=run,
            scored=progress.scored,
            left="" if seconds is None else time_left(seconds),
            done=rounds[0].round if rounds else 0,
            asked=len(progress.status.asked) if progress.status else 0,
            waits=len(at_work),
            at_work=at_work,
            has_report=self._has_report(),
            curves=self._draw_curves(progress),
            sites=sites[:SITES_SHOWN],
            hidden_sites=max(0, len(sites) - SITES_SHOWN),
            rounds=rounds[:ROUNDS_SHOWN],
            hidden_rounds=max(0, len(rounds) - ROUNDS_SHOWN),
        )

    def _draw_curves(self, progress: Progress) -> list[tuple[Markup, str]]:
        """Return the figures; they are drawn again after a round, which takes a while."""
        run, scored = progress.run(), progress.scored
        if run is None or scored is None:
            return []
        drawn = (len(progress.history), scored.round, progress.state)
        if drawn != self._curves_of:
            figures = (
                (accuracy_by_round(run), "After each round; round 0 is the model before training."),
                (loss_by_round(run), "Cross-entropy of the model, and of the sites' training."),
                (
                    accuracy_by_bytes(run),
                    "Against the bytes sent. The dotted line marks what dense FedAvg would have "
                    "sent.",
                ),
            )
            self._curves = [(figure.svg, text) for figure, text in figures if figure is not None]
            self._curves_of = drawn
        return self._curves
