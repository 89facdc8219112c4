"""What mkdocs does for the site beyond the pages of docs/: `make site`.

    * Pages of the reference, one per module, are made from the docstrings; none lies on the disk.
    * Links that lead out of docs/, to parameters and code, lead to a page that shows the file.

mkdocs calls the functions by their names.
"""

from __future__ import annotations

import ast
import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parent.parent
REFERENCE, SHOWN = "reference", "files"  # folders of the pages that are made
LANGUAGES = {".yaml": "yaml", ".py": "python", ".toml": "toml", ".md": "markdown"}
HIDDEN = ("child", "__init__")  # modules that nobody imports
_LINK = re.compile(r"(\]\()(\.\./[^)#\s]+)((?:#[^)]*)?\))")


# --- pages that are made ----------------------------------------------------------------------------------------------
def modules() -> list[str]:
    """The modules of midivae by their full names, package after package."""
    paths = sorted(path.relative_to(ROOT).with_suffix("") for path in (ROOT / "midivae").glob("*/*.py"))
    names = [".".join(path.parts) for path in [Path("midivae/errors"), *paths]]
    return [name for name in names if name.rpartition(".")[2] not in HIDDEN]


@cache
def docstring(module: str) -> str:
    """A module's own."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def reference_page(module: str) -> str:
    """What mkdocstrings is to show of a module."""
    return f"# {module}\n\n::: {module}\n"


def reference_index() -> str:
    """All modules, a line each."""
    rows = [f"| [{name}]({name}.md) | {docstring(name).splitlines()[0].replace('|', '/')} |" for name in modules()]
    opening = "# Python\n\nEvery module, from its docstrings. Start with `midivae.catalog.read`, which reads samples.\n"
    return "\n".join([opening, "| module | what it is |", "|---|---|", *rows, ""])


def shown_page(name: str) -> str:
    """A file of the project as a page."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("````", "'```")
    return f"# {name}\n\n````{LANGUAGES.get(Path(name).suffix, 'text')}\n{text}````\n"


def linked_files() -> set[str]:
    """The files outside docs/ that its pages link to."""
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / name for name in PROJECT_PAGES)]
    found = {match[2] for page in pages for match in _LINK.finditer(page.read_text(encoding="utf-8"))}
    names = {posixpath.normpath(posixpath.join("docs", target)) for target in found}
    return {name for name in names if (ROOT / name).is_file() and name not in PROJECT_PAGES}


PROJECT_PAGES = ("CHANGELOG.md",)


def on_config(config: Any) -> Any:
    """Puts the pages of the reference into the navigation."""
    for entry in config.nav:
        if "Reference" in entry:
            entry["Reference"].append({"Python": [f"{REFERENCE}/{name}.md" for name in ("index", *modules())]})
        if "Explanation" in entry:
            entry["Explanation"].append({"Changes": "changelog.md"})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made."""
    made = {f"{REFERENCE}/{name}.md": reference_page(name) for name in modules()}
    made[f"{REFERENCE}/index.md"] = reference_index()
    made |= {f"{SHOWN}/{name}.md": shown_page(name) for name in linked_files()}
    made |= {name.lower(): (ROOT / name).read_text(encoding="utf-8") for name in PROJECT_PAGES}
    for path, text in made.items():
        inclusion = InclusionLevel.NOT_IN_NAV if path.startswith(SHOWN) else InclusionLevel.INCLUDED
        file = File.generated(config, path, content=text, inclusion=inclusion)
        files.append(file)
    return files


# --- what pages say ---------------------------------------------------------------------------------------------------
def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links out of docs/ as links to the pages that show what they lead to."""
    if page.file.src_uri.startswith((REFERENCE, SHOWN)):
        return markdown
    if page.file.src_uri == "changelog.md":
        markdown = markdown.replace("](docs/", "](")

    def inside(match: re.Match[str]) -> str:
        name = posixpath.normpath(posixpath.join("docs", match[2]))
        target = name.lower() if name in PROJECT_PAGES else f"{SHOWN}/{name}.md"
        return f"{match[1]}{target}{match[3]}"

    return _LINK.sub(inside, markdown)
