"""The style of the HTML report: light, dark, phone, projector and paper. Nothing refers outside the file."""

STYLE = """
:root { --ink: #16202c; --soft: #5b6775; --paper: #fff; --card: #f5f7f9; --line: #d7dde4; --a: #b35806; --b: #1f5fbf;
  --good: #11703a; --bad: #b3261e; --warn: #7a5200; --band: #c9d3de; --interval: #7aa7e6; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf1; --soft: #9daab8; --paper: #12171d; --card: #1b222b;
  --line: #33404d; --a: #f0a04b; --b: #79b0ff; --good: #63d297; --bad: #ff8a80; --warn: #f2c14e; --band: #3a4653;
  --interval: #3f6fb5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 1.2rem clamp(.8rem, 3vw, 2.4rem) 3rem; }
h1 { font-size: clamp(1.35rem, 1rem + 1.6vw, 2.1rem); line-height: 1.25; margin: .2rem 0 .8rem; text-wrap: balance; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
h3, h4 { font-size: 1rem; margin: 0 0 .2rem; } h3.part { margin: 1.2rem 0 .5rem; }
p, ul { margin: .4rem 0; } ul { padding-left: 1.2rem; }
.over { color: var(--soft); margin: 0; } .soft, small { color: var(--soft); font-size: .875rem; }
.key { display: inline-block; width: .75em; height: .75em; margin-right: .3em; vertical-align: -.02em; }
.key.a { background: var(--a); border-radius: 50%; } .key.b { background: var(--b); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .6rem .32rem 0; text-align: left; vertical-align: middle;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: .85rem; white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; } tbody th { color: var(--ink); font-size: 1rem; }
tr.group th { padding-top: 1rem; } tr.differs td { background: var(--card); }
.word { font-weight: 650; white-space: nowrap; } .faster, .cheaper { color: var(--good); }
.slower, .dearer { color: var(--bad); } .refused { color: var(--warn); }
.narrow { display: none; } .results.secondary td { color: var(--soft); font-size: .92rem; padding-block: .15rem; }
.results.judged td { font-size: 1.02rem; } .results.judged td:nth-child(4) { font-weight: 650; }
td.plot, th.plot { width: 236px; } th.plot { vertical-align: bottom; padding-bottom: 0; }
table.figures, table.runs { font-size: .8rem; } .figures a { color: inherit; }
tr:target td { background: var(--band); } .card:target { border-color: var(--b); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 1rem; }
.cards.broad { grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); }
th.name { white-space: normal; min-width: 8.5rem; } .whole { white-space: nowrap; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem; min-width: 0;
  break-inside: avoid; }
.card p { font-size: .9rem; } .card svg { width: 100%; height: auto; display: block; }
.notice { border-left: 4px solid var(--warn); background: var(--card); padding: .5rem .9rem; margin: .8rem 0; }
.notice.bad { border-color: var(--bad); } .notice.plain { border-color: var(--b); }
.statement { border-left: 4px solid var(--line); padding: .1rem .9rem; margin: .8rem 0; }
code, pre, .mono {
  font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .85rem; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; background: var(--card); padding: .8rem; border-radius: 8px; margin: .4rem 0; }
summary { cursor: pointer; padding: .3rem 0; } .card summary { font-size: .875rem; color: var(--soft); }
a { color: var(--b); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .4rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
svg path { fill: none; stroke: var(--line); stroke-width: 1; } svg .grid { opacity: .7; }
svg .zero { stroke: var(--ink); } svg .median { stroke-dasharray: 4 3; stroke-width: 1.5; }
svg .median.a { stroke: var(--a); } svg .median.b { stroke: var(--b); }
svg .mark { stroke-width: 7; stroke-linecap: round; } svg .mark.a { stroke: var(--a); }
svg .mark.b { stroke: var(--b); stroke-linecap: square; stroke-width: 6; } svg .mark.d { stroke: var(--ink); }
svg .margin { fill: var(--band); opacity: .55; } svg .interval { fill: var(--interval); opacity: .45; }
svg .estimate, svg .whisker { stroke: var(--b); stroke-width: 2; } svg .centre { fill: var(--b); }
svg .edge { stroke: var(--soft); stroke-dasharray: 1 3; } svg .tick { stroke: var(--soft); }
svg.forest { width: 220px; height: 22px; display: block; } svg.forest.axis { height: 32px; }
svg.faster .whisker, svg.cheaper .whisker { stroke: var(--good); }
svg.faster .centre, svg.cheaper .centre { fill: var(--good); }
svg.slower .whisker, svg.dearer .whisker { stroke: var(--bad); }
svg.slower .centre, svg.dearer .centre { fill: var(--bad); }
.results.secondary svg .whisker { stroke: var(--soft); stroke-width: 1.5; }
.results.secondary svg .centre { fill: var(--soft); }
@media screen and (max-width: 860px) {
  .results .wide { display: none; } .narrow { display: block; } th, td { padding-right: .45rem; }
  .results tr { display: grid; grid-template-columns: minmax(0, 1.15fr) minmax(0, 1fr) minmax(0, 1fr);
    border-bottom: 1px solid var(--line); }
  .results.secondary tr { grid-template-columns: minmax(0, 1.3fr) minmax(0, 1fr); }
  .results td, .results th { border: 0; white-space: normal; } .results tr.group { display: block; }
  .results.judged td { font-size: 1rem; } td small.narrow { font-weight: 400; } td.n small { white-space: nowrap; }
  .results .plot { grid-column: 1 / -1; grid-row: 2; width: 100%; padding: 0; }
  svg.forest { width: 100%; height: auto !important; max-width: 420px; margin: 0 auto; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .4rem; } }
@media screen and (max-width: 480px) { td.whole { white-space: normal; } .card .mono { font-size: .78rem; }
  .card ul { padding-left: 1rem; } .card li { font-size: .9rem; } }
@media screen and (min-width: 1600px) { html, body { font-size: 18px; } main { max-width: 1480px; }
  td.plot, th.plot { width: 336px; } svg.forest { width: 320px; height: 32px; } svg.forest.axis { height: 46.5px; } }
@media print { :root { --ink: #000; --soft: #444; --paper: #fff; --card: #fff; --line: #bbb; --a: #b35806; --b: #1f5fbf;
  --good: #11703a; --bad: #b3261e; --warn: #7a5200; --band: #ddd; --interval: #a8c4ec; color-scheme: light; }
  html, body { font-size: 9.5pt; } main { max-width: none; padding: 0; } h2, h3 { break-after: avoid; }
  tr, .notice { break-inside: avoid; } a { color: inherit; text-decoration: none; }
  details:not([open]) { display: none; } .scroll { overflow: visible; } .results.judged td { font-size: .85rem; }
  .results td, .results th { padding-right: .35rem; font-size: .8rem; }
  section > p.soft:first-of-type { break-after: avoid; }
  td.plot, th.plot { width: 150px; } svg.forest { width: 145px; height: 14.5px; } svg.forest.axis { height: 21px; }
  .cards { grid-template-columns: repeat(3, 1fr); gap: .6rem; } .cards.broad { grid-template-columns: 1fr 1fr; }
  .card { padding: .5rem; } .card p { font-size: .8rem; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
