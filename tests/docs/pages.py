"""Reads the documentation's pages: their headings, and their fenced blocks in order."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown.extensions.toc import slugify

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(
    r"(?P<runnable><!-- runnable -->\n)?"
    r"^```(?P<language>[a-z]*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page; *title* is the file that the reader is told to write."""

    page: Path
    line: int
    language: str
    title: str | None
    runnable: bool
    text: str

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of *page* in order."""
    source = page.read_text("utf-8")
    for found in _FENCE.finditer(source):
        yield Block(
            page=page,
            line=source.count("\n", 0, found.start("language")) + 1,
            language=found["language"],
            title=found["title"],
            runnable=bool(found["runnable"]),
            text=found["text"],
        )


def headings(page: Path) -> list[str]:
    """The headings of *page*, without their code marks."""
    found = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return [heading.replace("`", "") for heading in found]


def anchors(page: Path) -> set[str]:
    """What a link to a heading of *page* ends with."""
    return {slugify(heading, "-") for heading in headings(page)}
