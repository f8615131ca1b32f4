"""The parts of a report, as one self-contained HTML page and as Markdown, and the files in its folder.

The page opens from disk without a network: it embeds its pictures, has no script, and its policy forbids the browser
both. Text from a store is escaped, as anyone may write there.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from quantexp.reports.sweep_plots import Picture
from quantexp.reports.table import TEXT_COLUMNS, Table, plain
from quantexp.system.errors import QuantexpError

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
.wide { overflow: auto; max-height: 85vh }
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


def page_html(title: str, sections: Iterable[str]) -> str:
    """Return a page with a title above its sections."""
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


def table_html(title: str, table: Table) -> Iterator[str]:
    """Yield the lines of a table with its title above and its notes below."""
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
    """Return a picture, embedded, with its caption."""
    source = f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
    alt = escape(f"{picture.title}: {picture.caption}. The tables have the figures.")
    return (
        f'<figure><img src="{source}" alt="{alt}">'
        f"<figcaption>{escape(picture.title)}: {escape(picture.caption)}.</figcaption></figure>"
    )


def pictures_html(pictures: Sequence[Picture]) -> Iterator[str]:
    """Yield the section of the pictures; nothing without any."""
    if pictures:
        yield '<h2>Pictures</h2>\n<div class="pictures">'
        yield from (_figure(picture) for picture in pictures)
        yield "</div>"


def pictures_markdown(pictures: Sequence[Picture]) -> list[str]:
    """Return a paragraph for each picture, with a link to its file."""
    return [
        f"## {plain(picture.title)}\n\n![{plain(picture.caption)}](pictures/{picture.file})" for picture in pictures
    ]


def faults_html(title: str, faults: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield the section of what has failed: names with reasons; nothing without any."""
    if faults:
        yield f"<h2>{escape(title)}</h2>\n<dl>"
        yield from (f'<dt>{escape(name)}</dt>\n<dd class="failed">{escape(reason)}</dd>' for name, reason in faults)
        yield "</dl>"


def faults_markdown(title: str, faults: Sequence[tuple[str, str]]) -> list[str]:
    """Return a paragraph for the title and for each name with its reason; nothing without any."""
    return [f"## {title}", *(f"- {plain(name)}: {plain(reason)}" for name, reason in faults)] if faults else []


def write_files(folder: Path, texts: Mapping[str, str], pictures: Mapping[str, bytes]) -> None:
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
