"""Pages to read and to print: one file each, without scripts or anything from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0;
  --paper: #ffffff; --wash: #f5f7f9; --own: #2463a8; --sponsors: #d98324; --second: #2f8f6b;
  --third: #b0417b; --fourth: #7a6bc4; --fifth: #8a7a2c; --rest: #8b95a1; --bad: #b3261e; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1;
  --line: #3a424c; --paper: #16191d; --wash: #20252b; --own: #6ea8e6; --sponsors: #e9a35a;
  --second: #58c49b; --third: #e07fb2; --fourth: #a99cf0; --fifth: #cdbb5a; --rest: #76818d;
  --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 2.5rem auto; padding: 0 1rem; max-width: 66rem; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
header { border-bottom: 2px solid var(--ink); padding-bottom: .9rem; margin-bottom: 1.4rem; }
header p { margin: 0; color: var(--soft); }
h1 { margin: .1rem 0 .3rem; font-size: 1.75rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2rem 0 .5rem; font-size: 1.05rem; break-after: avoid; }
dl { display: flex; flex-wrap: wrap; gap: .9rem 2.6rem; margin: 0; }
dl div { min-width: 8rem; }
dt { color: var(--soft); font-size: .82rem; }
dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
dd small { display: block; font-size: .82rem; color: var(--soft); }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .78rem; }
th { text-align: left; font-weight: 600; font-size: .76rem; line-height: 1.25; color: var(--soft);
  border-bottom: 1px solid var(--ink); vertical-align: bottom; }
th, td { padding: .28rem .36rem; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
td { border-bottom: 1px solid var(--line); vertical-align: top; }
td.text { min-width: 5rem; max-width: 16rem; overflow-wrap: break-word; }
td.key { color: var(--soft); font-size: .76rem; white-space: nowrap; }
.n { text-align: right; }
td.n { white-space: nowrap; }
.day { white-space: nowrap; }
tfoot td { font-weight: 600; border-bottom: 0; border-top: 1px solid var(--ink); }
thead { display: table-header-group; }
tfoot { display: table-row-group; }
tr { break-inside: avoid; }
figure { margin: 0; break-inside: avoid; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft);
  font-variant-numeric: tabular-nums; }
.own { fill: var(--own); } .sponsors { fill: var(--sponsors); } .second { fill: var(--second); }
.third { fill: var(--third); } .fourth { fill: var(--fourth); } .fifth { fill: var(--fifth); }
.rest { fill: var(--rest); } rect { stroke: var(--paper); stroke-width: .6; }
svg.bar { height: .6rem; margin-bottom: .4rem; } td.bar { width: 34%; }
td svg.bar { min-width: 6rem; margin: .25rem 0 0; }
.bar rect { stroke: none; }
.grid { stroke: var(--line); } .axis { stroke: var(--ink); }
figcaption { color: var(--soft); font-size: .82rem; margin-top: .3rem; }
i { display: inline-block; width: .8em; height: .8em; margin: 0 .35em 0 0; }
figcaption span { display: inline-block; margin-right: 1.4em; }
i.own { background: var(--own); } i.sponsors { background: var(--sponsors); }
i.second { background: var(--second); } i.third { background: var(--third); }
i.fourth { background: var(--fourth); } i.fifth { background: var(--fifth); }
i.rest { background: var(--rest); }
.verdict { margin: 1.2rem 0 0; padding: .55rem .8rem; border-left: 4px solid var(--second);
  background: var(--wash); }
.verdict.bad { border-color: var(--bad); color: var(--bad); font-weight: 600; }
details { margin-top: .6rem; } summary { color: var(--soft); font-size: .82rem; cursor: pointer; }
td small { display: block; color: var(--soft); }
th[scope=row] { color: var(--ink); font-weight: 400; border-bottom: 1px solid var(--line);
  vertical-align: top; font-size: inherit; line-height: inherit; }
.note { color: var(--soft); font-size: .82rem; margin: .5rem 0 0; }
figure .wide svg:not(.bar) { min-width: 34rem; }
.wide:focus-visible { outline: 2px solid var(--own); outline-offset: 2px; }
footer { margin-top: 2rem; border-top: 1px solid var(--line); padding-top: .7rem;
  color: var(--soft); font-size: .82rem; }
footer p { margin: .25rem 0; overflow-wrap: anywhere; }
@page { size: A4; margin: 16mm 14mm;
  @bottom-right { content: counter(page) " / " counter(pages); font: 8pt sans-serif; } }
@media print { :root { color-scheme: light; }
  body { margin: 0; padding: 0; max-width: none; font-size: 9pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h1 { font-size: 17pt; } dd { font-size: 12pt; } th, td { padding: 1mm 1.2mm; }
  table { font-size: 8.5pt; } th, td.key { font-size: 7.5pt; } td.text { min-width: 18mm; }
  .wide { overflow: visible; } figure .wide svg:not(.bar) { min-width: 0; } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A page's text, of a title and of lines that are HTML already."""
    return "\n".join([
        "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        'style-src \'unsafe-inline\'">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>", f"<style>{_STYLE}</style>", "</head>", "<body>",
        *body, "</body>", "</html>", "",
    ])  # fmt: skip


def wide(title: str) -> str:
    """Opens what is wider than a phone: it scrolls by itself, by the keyboard too."""
    return f'<div class="wide" role="group" tabindex="0" aria-label="{escape(title)}">'


def fact(name: str, value: str, small: str) -> str:
    """One figure of the head; `small` stands below it."""
    more = f"<small>{escape(small)}</small>" if small else ""
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}{more}</dd></div>"


def table(
    title: str, head: Sequence[str], rows: Iterable[Sequence[str]],
    foot: Iterable[Sequence[str]] = (),
) -> Iterator[str]:  # fmt: skip
    """A table of cells that are HTML already; ">" marks the heads of numbers.

    title  what it is called by those who hear the page
    """
    yield f'{wide(title)}<table aria-label="{escape(title)}">'
    cells = (
        f'<th scope="col" class="n">{escape(name[1:])}</th>' if name.startswith(">")
        else f'<th scope="col">{escape(name)}</th>' for name in head
    )  # fmt: skip
    yield f"<thead><tr>{''.join(cells)}</tr></thead>"
    yield "<tbody>"
    for row in rows:
        yield f"<tr>{''.join(row)}</tr>"
    yield "</tbody>"
    below = [f"<tr>{''.join(row)}</tr>" for row in foot]
    if below:
        yield f"<tfoot>{''.join(below)}</tfoot>"
    yield "</table></div>"


def text_cell(words: str) -> str:
    return f'<td class="text"><bdi>{escape(words)}</bdi></td>' if words else "<td></td>"


def day_cell(date: object) -> str:
    return f'<td class="day">{escape(str(date))}</td>'


def number_cell(count: int) -> str:
    return numeric_cell(f"{count:,}")


def numeric_cell(words: str) -> str:
    return f'<td class="n">{escape(words)}</td>'


def key_cell(html: str) -> str:
    return f'<td class="key">{html}</td>'
