"""The style of the trace page, on top of the comparison page's: ways, boxes, table, legend; light, dark and paper."""

from __future__ import annotations

TRACE_STYLE = """
:root { --request: #1f5fbf; --reply: #b35806; --place: #f5f7f9; --box: #fff; --away: #8a96a3; --badge: #fff; }
@media (prefers-color-scheme: dark) { :root { --request: #79b0ff; --reply: #f0a04b; --place: #1b222b; --box: #12171d;
  --away: #75828f; --badge: #12171d; } }
main.trace { max-width: 1780px; padding-top: .7rem; }
main.trace h1 { font-size: clamp(1.15rem, .9rem + 1vw, 1.7rem); margin: 0 0 .4rem; text-wrap: wrap; }
main.trace > p, main.trace > .statement { margin: .3rem 0; }
svg.way { width: 100%; min-width: 860px; height: auto; display: block; margin: .6rem 0; }
svg.way text { font: 15px system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; fill: var(--ink); }
svg.way rect.place { fill: var(--place); stroke: var(--line); stroke-width: 1.5; }
svg.way text.title { font-weight: 650; } svg.way .note { font-weight: 400; fill: var(--soft); }
svg.way rect.box { fill: var(--box); stroke: var(--ink); stroke-width: 1.6; }
svg.way rect.kernel { stroke-width: 1.6; stroke-dasharray: none; fill: var(--place); }
svg.way rect.wrong { stroke: var(--bad); stroke-width: 4; stroke-dasharray: none; }
svg.way rect.unseen { stroke: var(--away); stroke-dasharray: 5 4; fill: none; }
svg.way text.name, svg.way text.act { font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
svg.way text.name { text-anchor: middle; font-size: 15px; font-weight: 600; }
svg.way text.ttl { text-anchor: middle; font-size: 14px; fill: var(--soft); white-space: pre; }
svg.way text.name.unseen { fill: var(--away); font-weight: 400; }
svg.way text.act { font-size: 14px; } svg.way .act.request { fill: var(--request); }
svg.way .act.reply { fill: var(--reply); }
svg.way path.leg { fill: none; stroke-width: 3.4; stroke-linejoin: round; }
svg.way path.leg.request { stroke: var(--request); } svg.way path.leg.reply { stroke: var(--reply);
  stroke-dasharray: 11 4; }
svg.way path.head { stroke: none; } svg.way path.head.request { fill: var(--request); }
svg.way path.head.reply { fill: var(--reply); }
svg.way path.tunnel { fill: none; stroke: var(--away); stroke-width: 13; opacity: .3; stroke-linecap: butt; }
svg.way .badge { stroke: var(--badge); stroke-width: 1.5; } svg.way .badge.request { fill: var(--request); }
svg.way .badge.reply { fill: var(--reply); }
svg.way text.number { text-anchor: middle; font-size: 13px; font-weight: 700; fill: var(--badge); }
svg.way path.lost { stroke: var(--bad); stroke-width: 4; fill: none; } svg.way text.lost { fill: var(--bad);
  font-weight: 700; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.6rem; color: var(--soft); font-size: .9rem; margin: .2rem 0; }
.legend svg { width: 46px; height: 14px; vertical-align: -2px; margin-right: .4rem; overflow: visible; }
.legend svg path { fill: none; stroke-width: 3.4; } .legend .request { stroke: var(--request); }
.legend .reply { stroke: var(--reply); stroke-dasharray: 11 4; } .legend .tunnel { stroke: var(--away);
  stroke-width: 12; opacity: .3; }
.legend rect { fill: none; stroke: var(--away); stroke-dasharray: 5 4; }
table.hops td { vertical-align: top; } table.hops tr.skipped td { color: var(--soft); font-style: italic; }
table.hops tr.lost td { color: var(--bad); font-weight: 650; }
table.hops ul { padding-left: 0; list-style: none; margin: 0; } table.hops code { white-space: normal; }
.mark { display: inline-block; min-width: 1.5em; text-align: center; color: var(--badge); font-weight: 700;
  font-size: .8rem; line-height: 1.5em; } .mark.request { background: var(--request); border-radius: 1em; }
.mark.reply { background: var(--reply); border-radius: 3px; }
.wrong { border-left-color: var(--bad); }
@media print { :root { --request: #1f5fbf; --reply: #b35806; --place: #fff; --box: #fff; --away: #777; --badge: #fff; }
  @page { size: A4 landscape; margin: 12mm; } svg.way { max-height: 165mm; min-width: 0; }
  table.hops { font-size: 9pt; } }
"""
