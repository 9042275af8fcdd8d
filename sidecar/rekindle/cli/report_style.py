"""The style of a recovery's page. Colours have names of phases; each has a light and a dark value."""

STYLE = """
:root {
  --ground: #faf9f7; --card: #ffffff; --text: #1c2027; --quiet: #69707d; --line: #e5e2dc;
  --detect: #b9b3a6; --salvage: #e08a1e; --release: #b7791f; --down: #d9534f; --attach: #6f86b5; --restore: #2e9d64;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14161a; --card: #1c1f25; --text: #e9e7e3; --quiet: #98a1ae; --line: #30353e;
    --detect: #6b675e; --salvage: #f0a644; --release: #c98d35; --down: #e5706c; --attach: #8ba2d3; --restore: #46bd80;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0; display: flex; align-items: center; gap: 12px; }
h2 { font-size: 17px; margin: 0 0 12px; }
h3 { font-size: 14px; margin: 20px 0 6px; color: var(--quiet); font-weight: 600; }
p { margin: 0 0 8px; }
time { color: var(--quiet); }
header dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 14px 0 24px; }
header dt, .legend dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
header dd { font-family: ui-monospace, monospace; font-size: 13px; line-height: 22px; }
.badge { font-size: 12px; font-weight: 600; padding: 2px 10px; border-radius: 99px; color: var(--ground);
  background: var(--salvage); }
.badge.over { background: var(--restore); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px;
  margin: 0 0 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 18px; }
.tiles div { display: flex; flex-direction: column; }
.tiles b { font-size: 26px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles span { font-weight: 600; }
small { color: var(--quiet); font-size: 12px; }
.wide { overflow-x: auto; }
.timeline { display: block; width: 100%; min-width: 760px; height: auto; font: 12px system-ui, sans-serif; }
.timeline text { fill: var(--text); }
.timeline .name { text-anchor: end; }
.timeline .axis { text-anchor: middle; fill: var(--quiet); }
.timeline .tick { stroke: var(--line); }
.timeline .value { fill: var(--quiet); font-variant-numeric: tabular-nums; }
.timeline .value.inside { text-anchor: end; fill: var(--ground); font-weight: 600; }
.timeline .value.inside.open { fill: var(--text); }
.timeline .value.end { text-anchor: end; }
.timeline .mark { stroke-width: 1.5; stroke-dasharray: 3 3; }
.timeline .mark.death { stroke: var(--down); }
.timeline .mark.attach { stroke: var(--attach); }
.timeline .mark.warm { stroke: var(--restore); }
.timeline .mark-text { font-weight: 600; }
.timeline .mark-text.death { fill: var(--down); }
.timeline .mark-text.attach { fill: var(--attach); }
.timeline .mark-text.warm { fill: var(--restore); }
.bar.detect { fill: var(--detect); } .bar.salvage { fill: var(--salvage); } .bar.release { fill: var(--release); }
.bar.down { fill: var(--down); } .bar.attach { fill: var(--attach); } .bar.restore { fill: var(--restore); }
.bar.open { opacity: .4; }
.legend { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 18px 0 0; font-size: 13px; }
.legend dt::before { content: ""; display: inline-block; width: 10px; height: 10px; border-radius: 3px;
  margin-right: 8px; background: currentColor; }
.legend dt { color: var(--text); }
.legend dt.detect::before { color: var(--detect); } .legend dt.salvage::before { color: var(--salvage); }
.legend dt.release::before { color: var(--release); } .legend dt.down::before { color: var(--down); }
.legend dt.attach::before { color: var(--attach); } .legend dt.restore::before { color: var(--restore); }
table { width: 100%; border-collapse: collapse; }
th { text-align: left; font-weight: 600; white-space: nowrap; }
th, td { padding: 5px 12px 5px 0; border-top: 1px solid var(--line); }
tr:first-child > * { border-top: 0; }
td { color: var(--quiet); }
td.number { color: var(--text); text-align: right; font-variant-numeric: tabular-nums; }
td.share { width: 34%; padding-right: 0; }
td.share i { display: block; height: 8px; border-radius: 4px; }
i.attach { background: var(--attach); } i.salvage { background: var(--salvage); } i.down { background: var(--down); }
i.restore { background: var(--restore); }
ul { margin: 0; padding-left: 18px; font-family: ui-monospace, monospace; font-size: 13px; overflow-wrap: anywhere; }
@media print { body { background: none; } section { break-inside: avoid; } }
"""
