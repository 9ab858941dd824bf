"""The report's style sheet: system fonts, two sets of colours, nothing fetched from anywhere."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f7f6f3; --card: #ffffff; --ink: #1d2127; --soft: #626b77; --rule: #e3e1dc;
  --brand: #1f6feb; --quiet: #8f98a5; --warm: #c2571a; --good: #1a7f4b; --wash: #1f6feb14;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101317; --card: #181c22; --ink: #e8eaee; --soft: #98a2b0; --rule: #2b313a;
    --brand: #6ea8ff; --quiet: #6f7a8a; --warm: #f0924f; --good: #56c78a; --wash: #6ea8ff1f;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.02em; }
h2 { font-size: 1.25rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .25rem 0 1rem; max-width: 46rem; }
.lead, .hint { color: var(--soft); }
.hint { font-size: .875rem; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 14px;
  padding: 1.5rem 1.75rem; margin-top: 1.25rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  gap: .75rem; margin: 1.5rem 0 0; padding: 0; list-style: none; }
.tiles li { background: var(--card); border: 1px solid var(--rule); border-radius: 14px;
  padding: .9rem 1rem; }
.tiles strong { display: block; font-size: 1.5rem; line-height: 1.2; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.tiles span { display: block; margin-top: .25rem; color: var(--soft); font-size: .8125rem;
  line-height: 1.35; }
.scroll { overflow-x: auto; margin: 0; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .8125rem; }
th, td { padding: .4rem 1.25rem .4rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: middle; }
th:last-child, td:last-child { padding-right: 0; }
tr:last-child td { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
.meter, .outcome { white-space: nowrap; }
.meter svg { display: inline-block; width: 5rem; height: .7rem; margin: 0 0 0 .5rem;
  vertical-align: -.05em; }
.stars { color: var(--warm); white-space: nowrap; }
.liked { color: var(--good); font-weight: 600; white-space: nowrap; }
.watched { white-space: nowrap; }
svg { display: block; width: 100%; height: auto; margin: .5rem 0 0; overflow: visible; }
svg text { fill: var(--ink); font-size: 13px; font-family: inherit; }
svg .note, svg .tick { fill: var(--soft); font-size: 11.5px; }
svg .value { font-weight: 600; font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--rule); }
svg .axis { stroke: var(--soft); }
svg .session { stroke: var(--quiet); stroke-dasharray: 2 3; }
svg .mark { stroke: var(--ink); stroke-dasharray: 4 3; }
svg .served { stroke: var(--brand); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg .whisker { stroke: var(--soft); stroke-width: 2; }
svg .brand { fill: var(--brand); }
svg .quiet { fill: var(--quiet); }
svg .warm { fill: var(--warm); }
svg .good { fill: var(--good); }
svg .future { fill: var(--wash); }
.key { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: .5rem 0 0; padding: 0;
  list-style: none; color: var(--soft); font-size: .8125rem; }
.key svg { display: inline-block; width: .75rem; height: .75rem; margin: 0 .4rem 0 0;
  vertical-align: -.05em; }
footer { color: var(--soft); font-size: .8125rem; margin-top: 1.5rem; }
@media (max-width: 44rem) {
  main { padding: 1.5rem .75rem 2rem; }
  section { padding: 1.1rem 1rem; }
  .meter svg { display: none; }
  figure svg { min-width: 36rem; }
}
@media print { body { background: none; } section { break-inside: avoid; } }
"""
