from __future__ import annotations

import csv
import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from quantexp.reports.page import write
from quantexp.results.sweep import SweepResult
from quantexp.system.errors import QuantexpError
from tests.builders import conditions, entry, lone, method, sweep

HOSTILE = "<script>alert(1)</script>\"'&|`](javascript:x)"
SWEEP = sweep(lone(), method("static"), entry(None, error="DataError: none", quant="qat"), left=1)
SEEDS = sweep(*(method("static", seed=seed) for seed in range(3)))
FILES = {"table.md", "table.csv", "networks.md", "full.md", "full.csv", "report.md", "report.html"}


class Page(HTMLParser):
    """The tags of a page, the attributes of each, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(made: SweepResult, folder: Path) -> Page:
    return Page(write(made, folder).read_text(encoding="utf-8"))


def hostile() -> SweepResult:
    """A sweep whose every text is an attack on the page."""
    text = HOSTILE
    made = dataclasses.replace(
        method("static"),
        task=text,
        quant=text,
        precision=text,
        model=text,
        host=text,
        machine=text,
        benchmark=text,
        conditions=(conditions(1, unstable=(text,)),),
    )
    other = dataclasses.replace(made, threads=2, seed=1)
    ones = [entry(one, model__hidden=wide) for one, wide in ((made, text), (other, "[1]"))]
    failed = entry(None, error=text, task=text, quant=text, precision=text, seed=text)
    return sweep(*ones, dataclasses.replace(failed, name=text), name=text, command=text)


def test_the_report_is_tables_pictures_and_a_page(tmp_path: Path) -> None:
    path = write(SWEEP, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "report.html"
    assert {one.name for one in path.parent.iterdir()} == FILES | {"pictures"}
    assert (path.parent / "pictures" / "methods-mnist.png").read_bytes().startswith(b"\x89PNG")
    with (path.parent / "table.csv").open(encoding="utf-8", newline="") as file:
        assert [row["Quantization"] for row in csv.DictReader(file)] == ["none", "static"]


def test_the_page_holds_tables_pictures_advice_and_failures(tmp_path: Path) -> None:
    found = page(SWEEP, tmp_path)
    assert len(found.all("table")) == 3
    assert len(page(SEEDS, tmp_path).all("table")) == 3
    assert "At batches 1 and 64, static int8 is fastest" in found.text
    assert "DataError: none" in found.text
    assert "1 of 4 combinations remains" in found.text
    images = found.all("img")
    assert len(images) == 4
    for image in images:
        assert str(image["src"]).startswith("data:image/png;base64,")
        assert "mnist; paired, 1 thread, here" in str(image["alt"])


def test_the_page_needs_no_network_and_forbids_it(tmp_path: Path) -> None:
    path = write(SWEEP, tmp_path)
    found = Page(path.read_text(encoding="utf-8"))
    (policy,) = [one["content"] for one in found.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert not {"script", "link", "iframe", "object", "form", "a"} & {tag for tag, _ in found.tags}
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(|@import", path.read_text(encoding="utf-8"))


def test_the_page_is_fit_for_phones_and_dark_rooms(tmp_path: Path) -> None:
    text = write(SWEEP, tmp_path).read_text(encoding="utf-8")
    assert '<html lang="en">' in text
    assert 'content="width=device-width, initial-scale=1"' in text
    assert "prefers-color-scheme: dark" in text
    assert {one.get("scope") for one in Page(text).all("th")} == {"col"}


def test_text_from_a_store_is_escaped_wherever_it_stands(tmp_path: Path) -> None:
    plain, found = page(SEEDS, tmp_path / "plain"), page(hostile(), tmp_path / "hostile")
    assert {tag for tag, _ in found.tags} <= {tag for tag, _ in plain.tags} | {"dl", "dt", "dd"}
    allowed = {"class", "scope", "src", "alt", "content", "name", "charset", "lang", "http-equiv", "tabindex", "role"}
    assert {name for _, attributes in found.tags for name in attributes} <= allowed | {"aria-label"}
    assert found.text.count("<script>alert(1)</script>") > 10


def test_markdown_holds_no_html_and_no_links_from_a_store(tmp_path: Path) -> None:
    write(hostile(), tmp_path)
    for name in ("report.md", "table.md", "full.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.startswith("    ")]  # the command is code
        assert not re.search(r"(?<!\\)<script|(?<!\\)\]\(javascript", "\n".join(lines))


def test_the_markdown_report_links_its_pictures(tmp_path: Path) -> None:
    write(SWEEP, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\((pictures/[^)]+)\)", text)
    assert len(linked) == 4
    assert all((tmp_path / one).is_file() for one in linked)


def test_a_sweep_of_which_nothing_is_done_has_a_report(tmp_path: Path) -> None:
    found = page(sweep(entry(None, error="DataError: none"), left=2), tmp_path)
    assert "1 of 3 combinations failed." in found.text
    assert not found.all("img")
    assert page(sweep(left=2), tmp_path).all("h1")


def test_a_folder_that_is_not_writable_is_an_error_with_a_repair(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QuantexpError, match=r"is written into a folder, .*file is not writable"):
        write(SWEEP, tmp_path / "file")


# Hundreds of runs


def many(count: int) -> SweepResult:
    return sweep(
        *(
            entry(method("static", correct=900 + width % 90, flops=1000 * width), model__hidden=f"[{width}]")
            for width in range(1, count + 1)
        ),
        *(entry(method("dynamic", correct=880, flops=1000 * width), model__hidden=f"[{width}]") for width in (7, 8)),
    )


def test_a_long_summary_comes_after_the_rows_that_lead_it(tmp_path: Path) -> None:
    text = write(many(60), tmp_path).read_text(encoding="utf-8")
    assert text.index("<h2>Leading runs</h2>") < text.index("<h2>Summary</h2>") < text.index("<h2>Pictures</h2>")
    leading = text.partition("<h2>Leading runs</h2>")[2].partition("</table>")[0]
    assert "96.00 %" in leading  # the most accurate: 960 of 1000
    assert 1 <= leading.count("<tr>") - 1 < 10
    assert "no other one of the same task and setup is better in both" in text
    short = write(many(10), tmp_path / "short").read_text(encoding="utf-8")
    assert "Leading runs" not in short


def test_of_many_networks_few_have_a_table_on_the_page_and_all_in_a_file(tmp_path: Path) -> None:
    ones = [
        entry(method(quant, correct=900 + width), model__hidden=f"[{width}]")
        for width in range(1, 21)
        for quant in ("static", "dynamic")
    ]
    text = write(sweep(*ones), tmp_path).read_text(encoding="utf-8")
    assert text.count("<h2>mnist, hidden=") == 12
    assert "12 of 20 networks have a table here; networks.md has those of all." in text
    assert (tmp_path / "networks.md").read_text(encoding="utf-8").count("## mnist, hidden=") == 20


def test_the_page_of_hundreds_of_runs_stays_small(tmp_path: Path) -> None:
    path = write(many(300), tmp_path)
    assert path.stat().st_size < 2_500_000
    assert len(list((tmp_path / "pictures").iterdir())) < 12
