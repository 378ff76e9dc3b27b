"""Style sheet of the report, on screen and on paper."""

STYLE = """
:root { --ink: #1b1b1b; --quiet: #555; --line: #d0d0d0; --accent: #0072B2; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 24px; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7em; line-height: 1.2; margin: 0 0 .3em; }
h2 { font-size: 1.25em; margin: 1.8em 0 .5em; padding-top: .6em; border-top: 1px solid var(--line); }
p { margin: .5em 0; max-width: 46em; }
a { color: var(--accent); }
.quiet { color: var(--quiet); font-size: .9em; }
.notice { border-left: 4px solid #D55E00; padding: .4em .9em; background: #fbf3ee; }
.headline { font-size: 1.25em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15em 1.2em; margin: .8em 0; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93em; }
th, td { padding: .25em .9em .25em 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--quiet); font-weight: 600; }
td.number, th.number { text-align: right; white-space: nowrap; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em; print-color-adjust: exact; }
.scroll { overflow-x: auto; }
.meaning { display: block; min-width: 16em; color: var(--quiet); font-size: .9em; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 24px; }
figure { margin: 0; }
.charts img { width: 100%; height: auto; display: block; }
figcaption { font-size: .88em; color: var(--quiet); overflow-wrap: anywhere; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 18px; }
.card a { display: flex; gap: 4px; color: inherit; text-decoration: none; }
.card .view { flex: 1 1 0; min-width: 0; }
.card .view img { width: 100%; height: auto; display: block; }
.card .view span { display: block; font-size: .78em; color: var(--quiet); }
.card .plain, .card .close { display: none; }
.card b { color: var(--ink); }
.card:target { grid-column: 1 / -1; padding: 12px; outline: 2px solid var(--accent); }
.card:target .plain { display: block; }
.card:target .close { display: inline; color: var(--accent); text-decoration: underline; }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  .charts { grid-template-columns: 1fr 1fr; }
  .gallery { grid-template-columns: 1fr 1fr 1fr; gap: 10px; }
  .card:target { grid-column: auto; padding: 0; outline: none; }
  .card:target .plain, .card .close, .screen { display: none; }
  .notice { background: none; }
}
@page { margin: 15mm; }
"""
