#!/usr/bin/env python3
"""Checks that what README and docs/ refer to is there: files and headings that links lead to,
paths, functions named as `Type::function`, tests of `cargo test --test NAME FILTER`. Prints what is
not and exits 1.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]*)(?:#([^)]*))?\)")
PATH = re.compile(r"`((?:benches|docs|kernels|scripts|src|tests)/[\w./-]*)`")
FUNCTION = re.compile(r"`\w+::(\w+)`")
TEST = re.compile(r"--test (\w+)(?: (\w+))?")


def read(paths):
    return "".join(path.read_text() for path in paths)


def anchors(page):
    """The names by which links call a page's headings."""
    headings = re.findall(r"^#+ (.*)", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def missing(page, sources):
    """All that a page refers to and is not there."""
    text = page.read_text()
    prose = CODE.sub("", text)
    for target, heading in LINK.findall(prose):
        if ":" in target:
            continue
        there = (page.parent / target) if target else page
        if not there.exists():
            yield f"no file {target}"
        elif heading and heading not in anchors(there):
            yield f"no heading {heading} in {there.name}"
    yield from (f"no {path}" for path in PATH.findall(text) if not (ROOT / path).exists())
    for name in FUNCTION.findall(prose):
        if not re.search(rf"\b(fn|mod|struct) {name}\b", sources):
            yield f"no function {name}"
    for test, only in TEST.findall(text):
        files = [ROOT / f"tests/{test}.rs", *ROOT.glob(f"tests/{test}/*.rs")]
        found = read(path for path in files if path.exists())
        if not found or not re.search(rf"fn \w*{only}", found):
            yield f"no test {test} {only}"


def main():
    sources = read(ROOT.glob("src/**/*.rs"))
    faults = [
        f"{page.relative_to(ROOT)}: {fault}" for page in PAGES for fault in missing(page, sources)
    ]
    print("\n".join(faults) or f"{len(PAGES)} pages: all that they refer to is there")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
