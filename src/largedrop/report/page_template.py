"""The frame and the looks of the page that a comparison writes; ``page`` fills them in."""

from __future__ import annotations

__all__ = ["PAGE", "STYLE"]


STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #ffffff; --ink: #1d1f24; --soft: #5d626c;
  --line: #e2dfd8; --accent: #b8470a; --good: #17703f; --bad: #a3262a; --code: #f3f0ea; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171b; --card: #1d2025; --ink: #e9e8e4; --soft: #a3a7b0;
  --line: #33373f; --accent: #ff9a5c; --good: #6fce97; --bad: #ff8d8a; --code: #262a31; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 64rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 1rem; font-weight: 600; color: var(--soft); margin: 0 0 .9rem; overflow-wrap: anywhere; }
.finding { font-size: clamp(1.5rem, 1.1rem + 2vw, 2.3rem); line-height: 1.2; font-weight: 700; margin: 0 0 .8rem;
  letter-spacing: -.015em; text-wrap: balance; max-width: none; }
.lead { color: var(--soft); margin: 0 0 1.5rem; max-width: 48rem; overflow-wrap: anywhere; }
section { margin: 2.6rem 0; }
h2 { font-size: 1.25rem; margin: 0 0 .7rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 0 0 .4rem; overflow-wrap: anywhere; }
p { max-width: 48rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .8rem; margin: 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: .8rem 1rem; }
.tiles dt { color: var(--soft); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.5rem; font-weight: 700; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tiles small { display: block; font-size: .85rem; font-weight: 400; color: var(--soft); white-space: normal; }
.tiles .main dd { color: var(--accent); }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: .7rem; }
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .8rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--soft); font-weight: 600; font-size: .85rem; }
th:first-child, td:first-child { text-align: left; }
tbody th { font-weight: 500; }
tr.base { background: var(--code); }
td.best { font-weight: 700; }
.good { color: var(--good); } .bad { color: var(--bad); }
.text td, .text th { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
.facts th { width: 12rem; color: var(--soft); font-weight: 500; }
.notes { color: var(--soft); font-size: .88rem; margin: .6rem 0 0; padding: 0; list-style: none; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1.4rem; }
.pair > div { min-width: 0; } .pair table { font-size: .82rem; } .pair th, .pair td { padding: .35rem .45rem; }
.pair thead th { font-size: .78rem; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .88rem; margin-top: .6rem; max-width: 48rem; }
.plot { background: #fff; } .plot img { display: block; width: 100%; margin: 0 auto; padding: .6rem; }
.examples { padding: .9rem; width: fit-content; max-width: 100%; }
.sheet { display: grid; grid-template-columns: minmax(6.5rem, max-content) auto; column-gap: .8rem;
  width: max-content; }
.sheet img { display: block; }
.side { display: grid; grid-auto-rows: 1fr; } .side span { align-self: center; max-width: 12rem; line-height: 1.25;
  font-size: .88rem; overflow-wrap: anywhere; }
.top { grid-column: 2; display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); width: 0;
  min-width: 100%; }
.top span { font-size: .72rem; line-height: 1.15; color: var(--soft); text-align: center; align-self: end;
  padding: 0 .15rem .25rem; overflow-wrap: anywhere; hyphens: auto; min-width: 0; }
.side em { display: block; width: fit-content; font-style: normal; font-size: .72rem; color: var(--accent);
  border: 1px solid currentColor; border-radius: 1rem; padding: 0 .45rem; }
pre, code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .88rem; }
pre { background: var(--code); border-radius: .6rem; padding: .8rem 1rem; overflow-x: auto; }
.words dt { font-weight: 600; margin-top: .7rem; } .words dd { margin: 0; color: var(--soft); max-width: 48rem; }
details summary { cursor: pointer; font-weight: 600; margin-bottom: .6rem; }
.failed { border-left: 4px solid var(--bad); padding-left: 1rem; }
footer { color: var(--soft); font-size: .85rem; border-top: 1px solid var(--line); padding-top: 1rem;
  padding-bottom: 3rem; overflow-wrap: anywhere; }
@media (max-width: 34rem) { body { font-size: 15px; } table, .pair table { font-size: .8rem; }
  thead th, .pair thead th { font-size: .74rem; } th, td, .pair th, .pair td { padding: .35rem .4rem; }
  .facts th { width: 7rem; }
  .scores td span { display: block; color: var(--soft); }
  section { margin: 2rem 0; } }
@media print { .scroll { overflow: visible; } .plot img { min-width: 0 !important; }
  section { break-inside: avoid-page; } }
"""


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="finding">$finding</p>
<p class="lead">$lead</p>
$tiles
</header>
<main>
<section><h2>What was compared</h2>$compared</section>
<section><h2>All methods</h2>$overall</section>
<section><h2>I.i.d. and o.o.d. accuracy together</h2>$figure</section>
$domains
$examples
$failed
<section><h2>How to read this</h2>$glossary</section>
<section><h2>Go on with your own images</h2>$onward</section>
<section><h2>How this was made</h2>$made</section>
<section>$records</section>
</main>
<footer>$footer</footer>
</body>
</html>
"""
