"""The project holds together: what DVC, the docs and the packaging say is what the code does."""

from __future__ import annotations

import ast
import contextlib
import re
import runpy
import shlex
import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path

import click
import pyarrow as pa
import pytest
import yaml
from inline import copy_project
from packaging.requirements import Requirement

from midivae import __version__
from midivae.cli import main as cli
from midivae.cli import stages
from midivae.config import params
from midivae.config.params import Params
from midivae.storage import code, schema

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "midivae"
STAGES = {stage.name: stage for stage in stages.STAGES}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


# --- what a stage imports ---------------------------------------------------------------------------------------------
def nodes(name: str) -> Iterable[ast.AST]:
    """The syntax of all modules in a stage's package."""
    for path in sorted((PACKAGE / name).glob("*.py")):
        yield from ast.walk(ast.parse(path.read_text()))


def packages(files: Iterable[Path]) -> set[str]:
    """The packages of these files as dvc.yaml names them; a file at the top stands for itself."""
    return {"/".join(path.relative_to(ROOT).parts[:2]) for path in files}


ASSETS = sorted(
    path
    for path in PACKAGE.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts and path.suffix not in {".py", ".typed"}
)


def assets(modules: Iterable[Path]) -> set[Path]:
    """The files of the package, other than code, that some of these modules name."""
    texts = [path.read_text() for path in modules]
    return {asset for asset in ASSETS if any(asset.name in text for text in texts)}


def test_closures_follow_imports() -> None:
    errors, base, report = PACKAGE / "errors.py", PACKAGE / "config" / "base.py", PACKAGE / "config" / "report.py"
    assert code.imports(PACKAGE / "music" / "notes.py") == set()
    assert code.imports(report) == {base}
    assert code.closure("midivae.config.report") == {report, base, errors}
    assert PACKAGE / "cli" / "stages.py" not in code.closure("midivae.train.stage")


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_a_package_holds_imports_alone(path: Path) -> None:
    """So it decides no result, and counts only where a name is taken from it (`storage.code`)."""
    docstring, *rest = ast.parse(path.read_text()).body
    assert isinstance(docstring, ast.Expr)
    for node in rest:
        assert isinstance(node, ast.ImportFrom) or ast.unparse(node).startswith("__all__ = ")
    modules = {module.stem for module in path.parent.glob("*.py")} - {"__init__"}
    described = re.findall(r"^(\w+) {3,}\S", path.read_text(), re.MULTILINE)
    assert sorted(described) == sorted(modules), "one sentence for each module"


def test_imports_name_modules_in_full() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.ImportFrom) or node.level == 0, path


# --- DVC --------------------------------------------------------------------------------------------------------------
def test_dvc_has_the_stages_in_order() -> None:
    assert list(DVC["stages"]) == list(STAGES)
    for name, stage in DVC["stages"].items():
        assert stage["cmd"] == f"python -m midivae {name}"
        assert stage["outs"] == [f"data/{STAGES[name].writes}"]


def test_a_clone_has_the_bytes_that_dvc_hashed_where_git_writes_crlf(tmp_path: Path) -> None:
    copy_project(tmp_path / "project", lambda name: name.endswith((".py", ".yaml", ".png", ".gitattributes")))
    git = ["git", "-c", "user.name=n", "-c", "user.email=n@localhost", "-c", "commit.gpgsign=false"]
    commit = [*git, "-C", str(tmp_path / "project"), "commit", "-q", "--no-verify", "-m", "all"]
    subprocess.run(["git", "init", "-q", str(tmp_path / "project")], check=True)
    subprocess.run(["git", "-C", str(tmp_path / "project"), "add", "--all"], check=True)
    subprocess.run(commit, check=True)
    clone = ["git", "clone", "-q", "-c", "core.autocrlf=true", str(tmp_path / "project"), str(tmp_path / "clone")]
    subprocess.run(clone, check=True)
    files = [path.relative_to(tmp_path / "clone") for path in (tmp_path / "clone").rglob("*.*") if path.is_file()]
    files = [path for path in files if path.parts[0] != ".git"]
    assert Path("midivae/errors.py") in files
    assert [path for path in files if (ROOT / path).read_bytes() != (tmp_path / "clone" / path).read_bytes()] == []


@pytest.mark.parametrize("name", STAGES)
def test_dvc_depends_on_what_a_stage_imports_and_reads(name: str) -> None:
    modules = code.closure(f"midivae.{name}.stage")
    ours = packages(modules | assets(modules))
    data = {f"data/{folder}" for folder in STAGES[name].reads}
    listed = DVC["stages"][name]["deps"]
    missing, needless = sorted((ours | data) - set(listed)), sorted(set(listed) - ours - data)
    assert not missing and not needless, f"dvc.yaml, deps of {name}: add {missing}, take out {needless}"
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_reads_the_folders_that_it_says(name: str) -> None:
    stage = STAGES[name]
    folders = {other.writes for other in stages.STAGES}
    named = {
        node.right.value
        for node in nodes(name)
        if isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant) and node.right.value in folders
        if ast.unparse(node.left) == "data"
    }
    assert named == {*stage.reads, stage.writes}


@pytest.mark.parametrize("name", STAGES)
def test_dvc_tracks_the_params_that_a_stage_reads(name: str) -> None:
    sections = set(Params.model_fields)
    chains = {
        ast.unparse(node).removeprefix("params.")
        for node in nodes(name)
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("params.")
    }
    read = {chain for chain in chains if chain.partition(".")[0] in sections - {"compute"}}
    tracked = DVC["stages"][name]["params"]
    assert name in tracked
    for chain in read:
        assert any(f"{chain}.".startswith(f"{t}.") or f"{t}.".startswith(f"{chain}.") for t in tracked), chain
    for entry in tracked:
        assert any(f"{chain}.".startswith(f"{entry}.") for chain in read | {name}), f"{entry} is not read by {name}"
        assert not entry.startswith("compute"), "compute never changes results"


def test_no_stage_keeps_what_dvc_would_delete() -> None:
    assert "persist" not in (ROOT / "dvc.yaml").read_text()


def test_metrics_and_plots_lie_in_outputs() -> None:
    outs = tuple(f"data/{stage.writes}/" for stage in stages.STAGES)
    assert DVC["metrics"] == ["data/model/metrics.json", "data/evaluation/metrics.json"]
    files = re.findall(r"data/[\w/.-]+", yaml.safe_dump(DVC["plots"]))
    assert files
    assert all(file.startswith(outs) for file in files)
    drawn = {name for plot in DVC["plots"] for file in next(iter(plot.values()))["y"].values() for name in file}
    jobs = {job.name for job in Params().generate.jobs}
    losses = {"train_loss", "valid_loss", "loss", "reconstruction", "gradient_norm", "learning_rate"}
    priors = {"normal", "anywhere", "sequence"}
    of_jobs = drawn - {*losses, *priors, "held-out"}
    assert {"sample", "mlp"} <= of_jobs <= set(jobs)  # all of them would be too many to tell apart


def test_dvc_sends_nothing_and_stages_nothing() -> None:
    config = (ROOT / ".dvc" / "config").read_text()
    assert "analytics = false" in config
    assert "autostage = false" in config


def test_git_leaves_out_the_data_of_every_stage() -> None:
    ignored = (ROOT / "data" / ".gitignore").read_text().split()
    assert {f"/{stage.writes}" for stage in stages.STAGES} <= set(ignored)


# --- one word everywhere ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_one_word(name: str) -> None:
    assert (PACKAGE / name / "stage.py").is_file()
    assert (ROOT / "tests" / name / "test_stage.py").is_file()
    assert name in Params.model_fields
    assert name in cli.midivae.commands
    assert f"    {name} " in (PACKAGE / "__init__.py").read_text()


def test_stages_read_what_earlier_ones_wrote() -> None:
    written: set[str] = set()
    for stage in stages.STAGES:
        assert set(stage.reads) <= written
        written.add(stage.writes)


# --- packaging --------------------------------------------------------------------------------------------------------
def test_versions_agree() -> None:
    assert PROJECT["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_constraints_pin_every_requirement_inside_its_range() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    canonical = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in (Requirement(text) for group in lists for text in group):
        if requirement.name == PROJECT["name"]:  # an extra that takes in another
            continue
        version = canonical[re.sub(r"[-_.]+", "-", requirement.name).lower()]
        assert requirement.specifier.contains(version), f"{requirement}: constraints.txt pins {version}"
    assert not any("+" in version for version in pins.values())  # a local build is not to be had elsewhere


def test_all_packages_are_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["packages"]["find"] == {"include": ["midivae*"], "namespaces": False}
    folders = [
        PACKAGE,
        *(PACKAGE / name for name in {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.glob("*/*.py")}),
    ]
    assert all((folder / "__init__.py").is_file() for folder in folders)
    shipped = {
        path for pattern in setuptools["package-data"]["*"] for folder in folders for path in folder.glob(pattern)
    }
    assert set(ASSETS) <= shipped, "name them in package-data of pyproject.toml"


# --- docs -------------------------------------------------------------------------------------------------------------
def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_command_line_page_is_what_help_prints() -> None:
    written = (ROOT / "docs" / "cli.md").read_text()
    assert written == runpy.run_path(str(ROOT / "docs" / "regenerate.py"))["cli_page"](), "run `make docs`"


def tree_paths(text: str) -> list[str]:
    """The paths in a drawn tree: two spaces per level, folders end with a slash, what follows two spaces explains."""
    folders: list[str] = []
    paths: list[str] = []
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split(" ")
        paths += ["".join(folders[:depth]) + name for name in names]
        if names[-1].endswith("/"):
            folders[depth:] = [names[-1]]
    return paths


def test_the_drawn_file_tree_is_the_one_on_disk() -> None:
    [tree] = [block for block in blocks(ROOT / "docs" / "architecture.md", "text") if block.startswith("midivae/")]
    drawn = tree_paths(tree)
    assert [path for path in drawn if not (ROOT / path).exists()] == []
    assert len(drawn) == len(set(drawn))
    there = {
        *(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"),
        *ASSETS,
        *(ROOT / "docs").glob("*.md"),
    }
    assert {path.relative_to(ROOT).as_posix() for path in there} - set(drawn) == set(), "draw in docs/architecture.md"


def test_the_figure_of_the_packages_shows_the_layers_that_are_checked() -> None:
    module = runpy.run_path(str(ROOT / "docs" / "packages.py"))
    drawn = module["FIGURE"].read_text(encoding="utf-8")
    assert drawn == module["draw"](), "run `make docs`"
    names = [name for layer in module["layers"]() for name in layer]
    boxes = re.findall(r'font-weight="bold" fill="#1d2430">(\w+)<', drawn)
    assert boxes == names
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {"errors"} == set(names)


TABLES = (schema.CORPUS, schema.PIECES, schema.SHARD, schema.CATALOG, schema.WINDOWS, schema.NEIGHBOURS)


def plain_type(kind: pa.DataType) -> str:
    """An Arrow type as data.md writes it."""
    if pa.types.is_fixed_size_list(kind):
        return f"list<{kind.value_type}> of Z"
    if pa.types.is_list(kind):
        return f"list<{kind.value_type}>"
    if pa.types.is_struct(kind):
        return "struct<" + ", ".join(f"{field.name}: {field.type}" for field in kind) + ">"
    return str(kind)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_data_page_has_every_column(table: schema.Table) -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    section = page[page.index(f"\n## {table.name}\n") :].split("\n## ")[1]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.*?) \| (.+?) \|$", section, re.MULTILINE)
    assert [(name, kind, null == "yes") for name, kind, null, _ in rows] == [
        (field.name, plain_type(field.type), field.nullable) for field in table.columns
    ]
    assert f"version {table.version}" in section


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not target.startswith(("http:", "https:", "mailto:")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def commands(page: Path) -> list[str]:
    """The command lines in a page's shell blocks, without comments."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in commands(page):
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            assert set(words[1:]) <= targets, line
        elif words[0] == "midivae":
            parse(words[1:])
        else:
            assert words[0] in {"git", "cd", "torchrun", "dvc", "python", "pip", ".", "head", "jq", "rm"}, line


def parse(words: list[str]) -> None:
    """Parses a command line of ours as click would, without running it."""
    words = words[: words.index("|")] if "|" in words else words
    with click.Context(cli.midivae) as parent, contextlib.suppress(click.exceptions.Exit):  # --help ends there
        cli.midivae.commands[words[0]].make_context(words[0], words[1:], parent=parent)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_docs_compiles(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_parameters_in_the_docs_obey_their_rules(page: Path) -> None:
    for block in blocks(page, "yaml"):
        params.parse(yaml.safe_load(block), f"{page.name}: {block}")


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "Makefile", ".ci/run"])
def test_nothing_names_a_package_host(name: str) -> None:
    assert not re.search(r"https?:|index-url|find-links", (ROOT / name).read_text())
