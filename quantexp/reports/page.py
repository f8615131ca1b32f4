"""The report of a sweep, or of a study, as files: tables, pictures, Markdown, and one self-contained HTML page.

The page opens from disk without a network: it embeds its pictures, has no script, and its policy forbids the browser
both. Text from a store is escaped, as anyone may write there.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from quantexp.analysis.recommendation import recommend
from quantexp.reports.findings import Findings
from quantexp.reports.flows import flows_table
from quantexp.reports.networks import network_tables, unsupported_table
from quantexp.reports.sweep_csv import full_csv, sweep_csv
from quantexp.reports.sweep_plots import Picture, drawn
from quantexp.reports.sweep_table import full_table, seeds_table, summary_table
from quantexp.reports.table import TEXT_COLUMNS, Table, plain
from quantexp.results.sweep import Entry, SweepResult
from quantexp.system.errors import QuantexpError

PAGE = "report.html"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #ddd; --soft: #f5f5f5; --quiet: #555 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --paper: #161616; --faint: #444; --soft: #222; --quiet: #aaa }
}
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; padding: 1rem; max-width: 84rem; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; margin: .5rem 0 } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem }
p { max-width: 48rem }
code { background: var(--soft); padding: .1em .3em }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; overflow-wrap: normal }
th, td { padding: .25rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--faint);
  white-space: nowrap }
th { position: sticky; top: 0; background: var(--soft) }
.number { text-align: right }
td.failed { color: #b3261e; white-space: normal; min-width: 16rem } .notes { color: var(--quiet); font-size: .85rem }
@media (prefers-color-scheme: dark) { td.failed { color: #ff8a80 } }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); gap: 1rem }
figure { margin: 0 } img { width: 100%; height: auto; border: 1px solid var(--faint); background: #fff }
figcaption { color: var(--quiet); font-size: .85rem }
"""


def write(sweep: SweepResult, folder: Path) -> Path:
    """Write the report into `folder`; return the path of the HTML page.

        table.md, table.csv   the summary
        networks.md           every method on each network, and unsupported combinations; only if there are any
        full.md, full.csv     all runs with intervals, verdicts and notes; every figure by its public name
        report.md             the whole report, with links to the pictures
        report.html           the same with embedded pictures
        pictures/             PNG

    Raises:
        QuantexpError: If the folder cannot be written.
    """
    pictures = drawn(sweep)
    texts = {
        "table.md": summary_table(sweep).markdown(),
        "table.csv": sweep_csv(sweep),
        "networks.md": _networks(sweep),
        "full.md": full_table(sweep).markdown(),
        "full.csv": full_csv(sweep),
        "report.md": markdown(sweep, pictures),
        PAGE: html(sweep, pictures),
    }
    _write(folder, texts, {picture.file: picture.png for picture in pictures})
    return folder / PAGE


def write_study(title: str, found: Findings, folder: Path) -> Path:
    """Write the report of a study into a folder; return its page. Raises QuantexpError if that is not possible."""
    files = {f"{name}.csv": _csv(lines) for name, lines in found.lines.items()}
    page = _html(f"Study {title}", ["".join(_table("Results", found.table))])
    report = f"# Study {plain(title)}\n\n{found.table.markdown()}"
    _write(folder, {"table.md": found.table.markdown(), "report.md": report, PAGE: page, **files, **found.texts}, {})
    return folder / PAGE


def _csv(lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue()


def _write(folder: Path, texts: Mapping[str, str], pictures: Mapping[str, bytes]) -> None:
    """Write files into a folder, pictures into one below it. Raises QuantexpError if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            if text:
                (folder / name).write_text(text, encoding="utf-8")
        for name, picture in pictures.items():
            (folder / "pictures").mkdir(exist_ok=True)
            (folder / "pictures" / name).write_bytes(picture)
    except OSError as error:
        raise QuantexpError(
            f"the report is written into a folder, {folder} is not writable ({error.strerror or error}); "
            "choose another folder"
        ) from error


def markdown(sweep: SweepResult, pictures: list[Picture]) -> str:
    """Return the report as Markdown, with links to the pictures."""
    parts = [f"# Sweep {plain(sweep.name)}", f"    {' '.join(sweep.command.split())}"]
    parts += ["## Recommendation", *(plain(text) for text in recommend(sweep).split("\n\n"))]
    parts += [f"## {title}\n\n{table.markdown().strip()}" for title, table in tables(sweep)]
    parts += [
        f"## {plain(picture.title)}\n\n![{plain(picture.caption)}](pictures/{picture.file})" for picture in pictures
    ]
    parts += ["## Failed runs"] if sweep.failed else []
    parts += [f"- {plain(entry.name)}: {plain(_error(entry))}" for entry in sweep.failed]
    parts += ["## Not readable"] if sweep.unreadable else []
    parts += [f"- {plain(one.name)}: {plain(one.reason)}" for one in sweep.unreadable]
    return "\n\n".join(parts) + "\n"


def html(sweep: SweepResult, pictures: list[Picture]) -> str:
    """Return the report as one page with embedded pictures."""
    return _html(f"Sweep {sweep.name}", [f"<p><code>{escape(sweep.command)}</code></p>", *_sections(sweep, pictures)])


def _html(title: str, sections: Iterable[str]) -> str:
    name = escape(title)
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
            f"<h1>{name}</h1>",
            *sections,
            "</main>\n</body>\n</html>\n",
        )
    )


def tables(sweep: SweepResult) -> Iterator[tuple[str, Table]]:
    """Yield the tables with their titles, the summary first."""
    yield "Summary", summary_table(sweep)
    yield from _of_networks(sweep)
    if seeds := seeds_table(sweep):
        yield "Methods compared over seeds", seeds
    yield "All runs", full_table(sweep)


def _sections(sweep: SweepResult, pictures: list[Picture]) -> Iterator[str]:
    summary, *others = tables(sweep)
    yield "<h2>Recommendation</h2>"
    yield from (f"<p>{escape(text)}</p>" for text in recommend(sweep).split("\n\n"))
    yield from _table(*summary)
    if pictures:
        yield '<h2>Pictures</h2>\n<div class="pictures">'
        yield from (_figure(picture) for picture in pictures)
        yield "</div>"
    for title, table in others:
        yield from _table(title, table)
    if sweep.failed:
        yield "<h2>Failed runs</h2>\n<dl>"
        for entry in sweep.failed:
            yield f'<dt>{escape(entry.name)}</dt>\n<dd class="failed">{escape(_error(entry))}</dd>'
        yield "</dl>"
    if sweep.unreadable:
        yield "<h2>Not readable</h2>\n<dl>"
        for one in sweep.unreadable:
            yield f'<dt>{escape(one.name)}</dt>\n<dd class="failed">{escape(one.reason)}</dd>'
        yield "</dl>"


def _of_networks(sweep: SweepResult) -> Iterator[tuple[str, Table]]:
    yield from network_tables(sweep)
    if flows := flows_table(sweep):
        yield "Flows without torch.ao", flows
    if unsupported := unsupported_table(sweep):
        yield "Unsupported combinations", unsupported


def _networks(sweep: SweepResult) -> str:
    return "\n".join(f"## {plain(title)}\n\n{table.markdown()}" for title, table in _of_networks(sweep))


def _table(title: str, table: Table) -> Iterator[str]:
    kinds = [_kind(at, name) for at, name in enumerate(table.columns)]
    head = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>' for kind, name in zip(kinds, table.columns, strict=True)
    )
    yield f'<h2>{escape(title)}</h2>\n<div class="wide" tabindex="0" role="region" aria-label="{escape(title)}">'
    yield f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>"
    for row in table.rows:
        yield f"<tr>{''.join(f'<td{kind}>{escape(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))}</tr>"
    yield "</tbody>\n</table>\n</div>"
    if table.notes:
        yield f'<ul class="notes">{"".join(f"<li>{escape(text)}</li>" for text in table.notes)}</ul>'


def _kind(at: int, name: str) -> str:
    if name == "Failed":
        return ' class="failed"'
    return "" if at == 0 or name in TEXT_COLUMNS else ' class="number"'


def _figure(picture: Picture) -> str:
    source = f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
    alt = escape(f"{picture.title}: {picture.caption}. The tables have the figures.")
    return (
        f'<figure><img src="{source}" alt="{alt}">'
        f"<figcaption>{escape(picture.title)}: {escape(picture.caption)}.</figcaption></figure>"
    )


def _error(entry: Entry) -> str:
    return entry.error or "no result was recorded"
