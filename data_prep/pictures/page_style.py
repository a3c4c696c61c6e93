"""The style sheet of all pages: light and dark, narrow screens, print."""

from __future__ import annotations

import re

_LIGHT = """
--page:#f4f5f2; --card:#ffffff; --ink:#18222b; --muted:#5a6872; --grid:#dde2e1; --line:#e2e6e4;
--up:#17738a; --down:#c27320; --bad:#b8352f; --quiet:#b4bec0; --tint:#eef4f4; --note:#fbf3e2;
--note-ink:#6b4a0c; --shade:0 1px 2px rgb(24 34 43 / 6%), 0 6px 20px rgb(24 34 43 / 4%);
"""

#: Colors of the light page by the name of their CSS variable, for files that follow no page.
LIGHT_COLORS = dict(re.findall(r"--([\w-]+):(#\w+);", _LIGHT))

_DARK = """
--page:#0f1519; --card:#171f25; --ink:#e4eaed; --muted:#98a6af; --grid:#2a363e; --line:#27323a;
--up:#56b5c8; --down:#e2a25c; --bad:#ee7a70; --quiet:#56636c; --tint:#1b272d; --note:#2e2717;
--note-ink:#ecc987; --shade:none;
"""

_RULES = """
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main, header, footer { max-width: 1080px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 52px; }
.kind { display: flex; gap: 12px; align-items: center; margin: 0 0 8px;
  color: var(--up); font-size: .82rem; font-weight: 600;
  letter-spacing: .08em; text-transform: uppercase; }
h1 { margin: 0; font-size: clamp(1.7rem, 4.4vw, 2.5rem); line-height: 1.15; font-weight: 680;
  letter-spacing: -.018em; overflow-wrap: anywhere; }
h2 { margin: 0 0 4px; font-size: 1.24rem; line-height: 1.3; font-weight: 650;
  letter-spacing: -.008em; display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: center; }
h3 { margin: 26px 0 8px; font-size: 1rem; font-weight: 640; }
p { margin: 0 0 12px; max-width: 74ch; }
.lead { margin: 14px 0 0; font-size: 1.08rem; color: var(--ink); }
.sub, figcaption { color: var(--muted); font-size: .9rem; }
.sub { margin-bottom: 18px; }
.badge { background: var(--note); color: var(--note-ink); border-radius: 99px;
  padding: 2px 11px; font-size: .74rem; font-weight: 620; letter-spacing: .01em;
  line-height: 1.6; white-space: nowrap; text-transform: none; }
.note { margin: 18px 0 0; padding: 11px 16px; border-radius: 10px; background: var(--note);
  color: var(--note-ink); font-size: .94rem; max-width: none; }
nav { margin: 26px 0 0; display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: .92rem; }
nav a { color: var(--up); text-decoration: none; padding: 3px 0; }
nav a:hover { text-decoration: underline; }
a:focus-visible, summary:focus-visible, [tabindex]:focus-visible {
  outline: 2px solid var(--up); outline-offset: 3px; border-radius: 3px; }
section, .headline { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  box-shadow: var(--shade); }
section { padding: 26px 28px; margin: 22px 0; scroll-margin-top: 12px; }
.headline { display: grid; grid-template-columns: 1fr 1fr 1.12fr; margin: 28px 0 0; }
.headline > div { padding: 20px 26px 22px; min-width: 0; }
.headline > div + div { border-left: 1px solid var(--line); }
.headline h2 { font-size: .84rem; color: var(--muted); font-weight: 560; letter-spacing: 0; }
.headline dl { margin: 10px 0 0; display: flex; flex-wrap: wrap; gap: 12px 26px; }
.headline dl > div { display: flex; flex-direction: column-reverse; }
.headline dt { font-size: .8rem; color: var(--muted); }
.headline .interval { font-size: .8rem; color: var(--muted); flex-basis: 100%; margin: -6px 0 0; }
.headline dd { margin: 0; font-size: 1.36rem; line-height: 1.2; font-weight: 640;
  letter-spacing: -.012em; font-variant-numeric: tabular-nums; white-space: nowrap; }
.headline .first dd { font-size: 2.5rem; line-height: 1.05; }
.headline .first { flex-basis: 100%; }
.headline > dl { grid-column: 1 / -1; margin: 0; padding: 18px 26px; gap: 12px 38px; }
.note-line { margin: 18px 0 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr));
  gap: 22px 30px; align-items: start; }
figure { margin: 0; min-width: 0; }
figcaption { margin-top: 8px; max-width: 74ch; }
.plot { overflow-x: auto; }
.plot svg { display: block; width: 100%; max-width: var(--width);
  min-width: min(var(--width), var(--least, 300px)); height: auto; }
.plot svg * { stroke-linejoin: round; }
.plot svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif !important; }
.wide { --least: 620px; }
.scroll { overflow-x: auto; }
td a, th a { color: var(--up); }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px 6px 0; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
thead th { color: var(--muted); font-weight: 560; font-size: .82rem;
  vertical-align: bottom; line-height: 1.35; }
tbody th { font-weight: 500; min-width: 6.5em; overflow-wrap: break-word; }
td.n, th.n { text-align: right; white-space: nowrap; }
td:last-child, th:last-child { padding-right: 0; }
.compact { width: auto; }
.compact th:not(:last-child), .compact td:not(:last-child) { padding-right: 40px; }
.scroll + .sub, figure + .sub { margin: 12px 0 0; }
.matrix h3 { margin-top: 6px; }
.bar { display: inline-block; width: 84px; height: 7px; margin-left: 10px; border-radius: 4px;
  background: var(--tint); vertical-align: middle; overflow: hidden; }
.bar { position: relative; }
.bar b { position: absolute; top: 2.5px; height: 2px; background: var(--ink); opacity: .75; }
.bar i { display: block; height: 100%; background: var(--up); border-radius: 4px; }
.note-line a { color: var(--up); }
.bar-text { margin: 14px 0 0; max-width: none; color: var(--muted); font-size: .9rem;
  font-variant-numeric: tabular-nums; }
progress { display: block; width: 100%; height: 10px; margin-top: 4px; border: 0; appearance: none;
  border-radius: 5px; background: var(--line); }
progress::-webkit-progress-bar { background: var(--line); border-radius: 5px; }
progress::-webkit-progress-value { background: var(--up); border-radius: 5px; }
progress::-moz-progress-bar { background: var(--up); border-radius: 5px; }
.split-bar { display: flex; width: 130px; height: 10px; border-radius: 4px; overflow: hidden;
  background: var(--tint); }
.named { vertical-align: bottom; display: inline-flex; align-items: center; gap: 8px; }
.bad { color: var(--bad); }
.quiet { color: var(--muted); }
details { border-top: 1px solid var(--line); margin-top: 20px; padding-top: 12px; }
details:first-of-type { margin-top: 14px; }
summary { cursor: pointer; font-weight: 580; color: var(--up); }
details[open] > summary { margin-bottom: 12px; }
pre { margin: 12px 0; padding: 14px 16px; background: var(--tint); border-radius: 10px;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .88rem; line-height: 1.5; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.maps { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 20px 22px; }
.map { position: relative; max-width: calc(560px * var(--ratio)); padding: 0 0 19px 17px; }
.ground { position: relative; }
.ground svg { display: block; width: 100%; height: auto; background: var(--tint); }
.x-ticks, .y-ticks { position: absolute; font-size: .66rem; line-height: 1.1; color: var(--muted);
  font-variant-numeric: tabular-nums; }
.x-ticks { left: 17px; right: 0; bottom: 0; height: 16px; }
.y-ticks { left: 0; top: 0; bottom: 19px; width: 13px; }
.x-ticks span, .y-ticks span { position: absolute; white-space: nowrap; }
.x-ticks span { bottom: 0; transform: translateX(-50%); }
.y-ticks span { writing-mode: vertical-rl; transform: translateY(-50%) rotate(180deg); }
.x-ticks span::before { content: ""; position: absolute; left: 50%; bottom: 100%; width: 1px;
  height: 4px; background: var(--muted); }
.y-ticks span::before { content: ""; position: absolute; top: 50%; right: 100%; height: 1px;
  width: 4px; background: var(--muted); }
.scale-bar, .north { position: absolute; color: #10181d; background: rgb(255 255 255 / 82%);
  font-size: .7rem; line-height: 1.25; font-weight: 600; }
.scale-bar { left: 3%; bottom: 3%; border: solid #10181d; border-width: 0 2px 3px; padding: 1px 0;
  text-align: center; white-space: nowrap; }
.north { right: 2.5%; top: 2.5%; padding: 1px 6px 3px; border-radius: 4px; text-align: center; }
.north::before { content: "↑"; display: block; font-size: .9rem; line-height: 1; }
.color-bar { display: flex; gap: 8px; align-items: center; margin: 4px 0 0 17px;
  font-size: .78rem; color: var(--muted); font-variant-numeric: tabular-nums; }
.color-bar i { flex: 0 1 130px; height: 9px; border-radius: 3px; }
.files { white-space: nowrap; }
.files a { display: inline-block; padding: 1px 7px; margin: 0 2px; border: 1px solid var(--line);
  border-radius: 99px; font-size: .72rem; color: var(--up); text-decoration: none; }
.files a:hover { background: var(--tint); }
.scenes { display: flex; flex-wrap: wrap; gap: 6px 8px; }
.choice { display: contents; }
.choice input { position: absolute; opacity: 0; pointer-events: none; }
.choice > label { order: 1; padding: 3px 12px; border: 1px solid var(--line); border-radius: 99px;
  font-size: .84rem; cursor: pointer; overflow-wrap: anywhere; }
.choice > label:hover { background: var(--tint); }
.choice input:checked + label { background: var(--up); border-color: var(--up);
  color: var(--card); font-weight: 600; }
.choice input:focus-visible + label { outline: 2px solid var(--up); outline-offset: 2px; }
.scene { order: 2; display: none; flex-basis: 100%; min-width: 0; }
.scene h3 { margin-top: 12px; }
.choice input:checked ~ .scene { display: block; }
.maps figcaption { margin: 0 0 6px; color: var(--ink); font-weight: 560; }
.thirds { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.cells { image-rendering: pixelated; }
.halo, .edge { fill: none; }
.halo { stroke: #fff; stroke-width: 4.2; }
.edge { stroke: #10181d; stroke-width: 2; }
.blocks { fill: none; stroke: #10181d; stroke-width: 1.2; }
body:has(#show-splits:not(:checked)) .over-splits,
body:has(#show-sites:not(:checked)) .over-sites,
body:has(#show-blocks:not(:checked)) .blocks { display: none; }
.toggles { margin: 10px 0 14px; display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: .9rem; }
.maps + .legend + .sub { margin: 10px 0 0; }
.legend { list-style: none; margin: 18px 0 0; padding: 0; display: flex; flex-wrap: wrap;
  gap: 5px 20px; font-size: .9rem; }
.legend li { display: inline-flex; align-items: center; gap: 8px; }
.swatch { width: 15px; height: 15px; border-radius: 4px; flex: none;
  box-shadow: inset 0 0 0 1px rgb(128 128 128 / 45%); }
.framed { background: #fff; border: 2px solid #10181d; box-shadow: 0 0 0 1px #fff; }
.thumbs { list-style: none; margin: 0; padding: 0; display: grid; gap: 16px 14px;
  grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); }
.thumbs img { display: block; width: 100%; aspect-ratio: 1; border-radius: 7px;
  background: var(--tint); }
.small { grid-template-columns: repeat(auto-fill, 96px); gap: 8px; }
.small img { image-rendering: pixelated; }
.thumbs span { display: block; font-size: .8rem; line-height: 1.35; margin-top: 5px;
  overflow-wrap: anywhere; }
footer { padding-top: 6px; padding-bottom: 48px; color: var(--muted); font-size: .86rem; }
@media (max-width: 860px) {
  /* A shade at the edge behind which there is more: the covers scroll along, the shades do not. */
  .scroll, .plot {
    background: linear-gradient(to right, var(--card) 40%, transparent) left / 36px 100% local,
      linear-gradient(to left, var(--card) 40%, transparent) right / 36px 100% local,
      linear-gradient(to right, #8888, transparent) left / 14px 100% scroll,
      linear-gradient(to left, #8888, transparent) right / 14px 100% scroll;
    background-repeat: no-repeat; }
  .headline { grid-template-columns: 1fr; }
  .headline > div + div { border-left: 0; border-top: 1px solid var(--line); }
}
@media (max-width: 560px) {
  main, header, footer { padding-left: 14px; padding-right: 14px; }
  header { padding-top: 30px; }
  section { padding: 20px 16px; border-radius: 12px; }
  .headline > div { padding: 16px 18px; }
  .maps, .thirds { grid-template-columns: minmax(0, 1fr); gap: 18px; }
  .bar { width: 44px; }
  th:not(:last-child), td:not(:last-child) { padding-right: 8px; }
  .compact th:not(:last-child), .compact td:not(:last-child) { padding-right: 16px; }
}
@media print {
  body { font-size: 10.5pt; }
  nav, .files, .choice > label, .toggles { display: none; }
  .scenes { display: block; }
  .headline { grid-template-columns: 1fr 1fr 1.12fr; }
  .pair { grid-template-columns: 1fr 1fr; }
  .scroll, .plot { overflow: visible; background: none; }
  .plot svg { min-width: 0; }
  table { font-size: 8pt; }
  thead th, thead th.n { font-size: 7.5pt; white-space: normal; }
  th, td { padding: 3px 7px 3px 0; }
  .compact th:not(:last-child), .compact td:not(:last-child) { padding-right: 18px; }
  .bar { display: none; }
  main, header, footer { max-width: none; padding: 0; }
  section, .headline { border-color: #ccc; break-inside: auto; }
  figure, tr, .thumbs li, .headline { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
"""

#: CSS of a whole page; it names no font, image or sheet that would have to be fetched.
STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
@media print {{ :root {{ color-scheme: light; {_LIGHT} --page:#fff; --shade:none; }} }}
{_RULES}"""
