# SPDX-License-Identifier: Apache-2.0
"""The look of the capture report, in light and dark."""

STYLE = """
:root{color-scheme:light dark;--page:#f6f5f2;--card:#fff;--ink:#1d1f21;--soft:#6b6f73;--line:#e4e2dc;--accent:#2b6cb0;
--good:#1f7a4d;--good-bg:#e3f4ea;--warn:#9a5b00;--warn-bg:#fff2d8;--bad:#b3261e;--bad-bg:#fde7e4;--map:#fbfaf8}
@media(prefers-color-scheme:dark){:root{--page:#131416;--card:#1c1e21;--ink:#ecebe8;--soft:#9a9da1;--line:#2e3135;
--accent:#7ab3ec;--good:#6fd3a0;--good-bg:#163325;--warn:#f0b75a;--warn-bg:#3a2c10;--bad:#ff8a80;--bad-bg:#401c19;
--map:#17191b}.map image{filter:brightness(1.5)}
figure .matrix{filter:invert(1) hue-rotate(180deg);border:0}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 24px 64px}
header{display:flex;gap:24px;align-items:center;margin-bottom:24px}
h1{margin:0;font-size:30px;line-height:1.2;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{margin:0 0 12px;font-size:17px}
header p{margin:6px 0 0;color:var(--soft)}
.kicker{text-transform:uppercase;letter-spacing:.08em;font-size:12px;margin:0 0 2px!important}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px 22px;margin-bottom:18px}
ul{margin:0;padding-left:20px}li{margin:4px 0;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:14px;background:none;border:0;padding:0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 18px}
.label{color:var(--soft);font-size:13px}.value{font-size:27px;font-weight:600;letter-spacing:-.01em}
.hint{color:var(--soft);font-size:12.5px}
.ring{width:104px;flex:none}.ring circle{fill:none;stroke-width:9}.ring .rail{stroke:var(--line)}
.ring .arc{stroke:var(--good);stroke-linecap:round;transform:rotate(-90deg);transform-origin:50% 50%}
.ring.warn .arc{stroke:var(--warn)}
.ring text{fill:var(--ink);font-size:24px;font-weight:600;text-anchor:middle}
.ring .small{font-size:12px;font-weight:400;fill:var(--soft)}
.badge{display:inline-block;border-radius:99px;padding:1px 10px;font-size:13px;font-weight:500}
.badge.good{color:var(--good);background:var(--good-bg)}.badge.warn{color:var(--warn);background:var(--warn-bg)}
.badge.bad{color:var(--bad);background:var(--bad-bg)}
.callout{background:var(--warn-bg);border-color:transparent}.callout h2{color:var(--warn)}
.fine{margin:0;color:var(--soft)}.note{color:var(--soft);font-size:13.5px;margin:12px 0 0}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:18px}
figure{margin:0}figcaption{color:var(--soft);font-size:13.5px;margin-top:6px}
.map,.hist,.matrix{width:100%;display:block;border-radius:8px;background:var(--map);border:1px solid var(--line)}
.hist{padding:6px}.matrix{image-rendering:pixelated;max-width:440px;aspect-ratio:1}
.cam polygon{fill:var(--accent);fill-opacity:.22;stroke:var(--accent);stroke-width:1}
.cam circle{fill:var(--accent)}.cam:hover polygon{fill-opacity:.8}
.scale line{stroke:var(--soft);stroke-width:2}.scale text,.hist text{fill:var(--soft);font-size:12px}
.bar rect{fill:var(--accent)}.bar:hover rect{fill:var(--ink)}.bar.off rect{fill:var(--bad)}
.hist line{stroke:var(--line)}.hist .grid{stroke-dasharray:3 4}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;font-weight:500;color:var(--soft);font-size:13px;padding:4px 10px 8px;white-space:nowrap}
td{padding:6px 10px;border-top:1px solid var(--line);vertical-align:middle}
.num{text-align:right;font-variant-numeric:tabular-nums}
.name{overflow-wrap:anywhere;min-width:120px}
.why{color:var(--soft);font-size:13px;max-width:420px;margin-top:3px}
.thumb{height:54px;border-radius:5px;display:block;max-width:120px;object-fit:cover}
.meter{width:90px;height:7px;border-radius:9px;background:var(--line);overflow:hidden}
.meter i{display:block;height:100%;background:var(--accent);border-radius:9px}
.chosen td{font-weight:600}
@media print{section,.tile{break-inside:avoid}}
"""
