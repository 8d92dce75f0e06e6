"""What is undocumented fails: verbs, options, settings, records, errors, routes, checks; and what no file may hold."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from features import reader, redis_line  # noqa: F401 - define errors
from journal.errors import RivermillError
from journal.record import Kind
from registry.checks import CHECKS, Meaning
from registry.flavors import export  # noqa: F401 - defines an error
from registry.lifecycle import TABLE, Event, State
from registry.policy import ALWAYS
from rivermill import feature_rows, settings  # noqa: F401 - the first defines an error
from rivermill.access import ROLES
from rivermill.api_guard import PERMISSIONS, PUBLIC
from rivermill.cli import rivermill
from rivermill.settings import HOME_VARIABLE, MLFLOW_PORT_VARIABLE, PIPELINES_VARIABLE, PORT_VARIABLE
from training import job_runner  # noqa: F401 - defines an error
from training.jobs import TRANSITIONS

ROOT = Path(__file__).parents[2]
ROOMS = ("journal", "features", "registry", "training", "serving", "rivermill")


def doc(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def verbs(command: click.Command, name: str) -> list[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        return [pair for sub, each in sorted(command.commands.items()) for pair in verbs(each, f"{name} {sub}")]
    return [(name, command)]


@pytest.mark.parametrize(("name", "command"), verbs(rivermill, "rivermill"))
def test_every_verb_and_option_is_in_the_docs(name: str, command: click.Command) -> None:
    line = next((line for line in doc("cli.md").splitlines() if f"`{name}`" in line), None)
    assert line is not None, f"{name} is not in docs/cli.md"
    for option in (option for option in command.params if isinstance(option, click.Option)):
        assert option.name == "as_json" or any(f"`{spelling}`" in line for spelling in option.opts), option.opts


def commands_in_docs() -> list[tuple[str, str]]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = [
        (path.name, line.strip())
        for path in pages
        for line in path.read_text().splitlines()
        if re.match(r"\s*(\.venv/bin/)?rivermill [a-z]", line)
    ]
    assert len(found) >= 8
    return found


@pytest.mark.parametrize(("page", "line"), commands_in_docs())
def test_every_command_in_the_docs_exists(page: str, line: str) -> None:
    command: click.Command = rivermill
    words = re.split(r"\s{2,}", line)[0].split()[1:]
    while isinstance(command, click.Group):
        assert words and words[0] in command.commands, (page, line)
        command = command.commands[words.pop(0)]
    options = {spelling for option in command.params if isinstance(option, click.Option) for spelling in option.opts}
    assert {word for word in words if word.startswith("-")} <= options, (page, line)


def test_every_verb_prints_json_and_has_help() -> None:
    for name, command in verbs(rivermill, "rivermill"):
        assert command.help, name
        assert "as_json" in {option.name for option in command.params}, name


def test_every_setting_of_the_environment_is_in_the_docs() -> None:
    commands = [rivermill, *(command for _, command in verbs(rivermill, "rivermill"))]
    options = [option for command in commands for option in command.params if isinstance(option, click.Option)]
    variables = {str(option.envvar) for option in options if option.envvar}
    assert variables == {HOME_VARIABLE, PIPELINES_VARIABLE, PORT_VARIABLE, MLFLOW_PORT_VARIABLE}
    every = {value for name, value in vars(settings).items() if name.endswith("_VARIABLE")}
    assert all(f"| `{variable}` |" in doc("cli.md") for variable in variables | every)


@pytest.mark.parametrize("kind", Kind)
def test_every_record_kind_is_in_the_docs(kind: Kind) -> None:
    assert f"| `{kind.value}` |" in doc("records.md")


def errors(kind: type[RivermillError]) -> list[type[RivermillError]]:
    return [each for sub in kind.__subclasses__() for each in (sub, *errors(sub))]


@pytest.mark.parametrize("error", errors(RivermillError))
def test_every_error_has_its_exit_code_in_the_docs(error: type[RivermillError]) -> None:
    line = next(line for line in doc("cli.md").splitlines() if line.startswith(f"| {error.exit_code} |"))
    assert f"`{error.__name__}`" in line
    assert (error.__doc__ or "").strip().endswith(".")


def test_every_module_that_defines_an_error_is_imported_here() -> None:
    """Else its errors could stay undocumented: they are found by what they derive from."""
    known = {error.__name__ for error in errors(RivermillError)} | {RivermillError.__name__}
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.ClassDef)
                and {base.id for base in node.bases if isinstance(base, ast.Name)} & known
            ):
                assert node.name in known, f"{path.relative_to(ROOT)} defines {node.name}"


def rows(page: str, columns: int) -> dict[str, list[str]]:
    """The rows of a page's tables that have so many columns: the first cell to the others."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in doc(page).splitlines()
        if line.startswith("| `")
    ]
    return {row[0].strip("`"): row[1:] for row in cells if len(row) == columns}


def test_every_route_is_in_the_docs_with_its_roles() -> None:
    documented = {route: set(re.findall(r"\w+", roles)) for route, (_, roles, _) in rows("http.md", 4).items()}
    asked = {**dict.fromkeys(PUBLIC, frozenset({"anyone"})), **PERMISSIONS}
    assert documented == asked


def test_every_role_is_in_the_docs() -> None:
    assert set(rows("access.md", 2)) == set(ROLES)


@pytest.mark.parametrize(("check", "meaning"), CHECKS.items())
def test_every_check_of_the_gate_is_in_the_docs(check: str, meaning: Meaning) -> None:
    bound, when, measures = rows("gate.md", 4)[check]
    inherent = check in {threshold.check for threshold in ALWAYS}
    assert bound == f"`{meaning.bound}`"
    assert when == ("live" if meaning.live else "always asked" if inherent else "as declared")
    assert measures.startswith(meaning.measures)


def arrows(page: str) -> set[tuple[str, str, str]]:
    """The arrows of a page's state diagram: from, event, to."""
    return set(re.findall(r"^\s+(\w+) --> (\w+) : (\w+)$", doc(page), re.MULTILINE))


def test_the_diagram_of_a_lines_states_is_the_table() -> None:
    drawn = {(before, event, after) for before, after, event in arrows("lines.md")}
    assert drawn == {
        (str(before), str(event), str(after)) for before in TABLE for event, after in TABLE[before].items()
    }
    assert all(f"`{state}`" in doc("lines.md") for state in State)
    assert all(f"`{event}`" in doc("lines.md") for event in Event)


def test_the_diagram_of_a_jobs_states_is_the_table() -> None:
    drawn = {(before, event, after) for before, after, event in arrows("jobs.md")}
    assert drawn == {(before, event, after) for before in TRANSITIONS for event, after in TRANSITIONS[before].items()}


def test_every_page_and_link_between_pages_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_setting_of_a_pipeline_is_in_the_docs() -> None:
    source = (ROOT / "rivermill" / "pipeline.py").read_text()
    names = set(re.findall(r'\.(?:text|texts|number|whole|span|moment|section)\("(\w+)"', source))
    written = set(re.findall(r"[\w.]+", " ".join(re.findall(r"`([^`]*)`", doc("pipeline.md")))))
    words = {word for dotted in written for word in dotted.split(".")}
    assert names - words == set()


def test_help_does_not_pay_for_the_giants() -> None:
    code = "import sys, rivermill.cli; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert loaded.isdisjoint({"feast", "river", "pandas", "duckdb", "deltalake", "pyarrow", "pandera", "rich"})


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).exists()]


def test_no_file_names_a_package_source_or_a_machine() -> None:
    forbidden = re.compile(
        "|".join(["pypi" + r"\.org", "pythonhosted" + r"\.org", r"--index" + "-url", r"/(?:work|root)" + "/"])
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix not in {".png", ".parquet", ".sqlite"} and path.name not in {"LICENSE", "acked"}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if forbidden.search(line)
    ]
    assert found == []


def test_broad_excepts_stay_rare() -> None:
    broad = []
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.ExceptHandler)
                and not isinstance(node.body[-1], ast.Raise)
                and (
                    node.type is None
                    or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"})
                )
            ):
                broad.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert len(broad) < 10, broad


def test_only_wiring_names_adapters() -> None:
    adapters = {"SqliteJournal", "MemoryJournal", "DirectoryBlobs", "OnlineTable"}
    homes = {"sqlite_log.py", "memory_log.py", "blobs.py", "online_table.py", "wiring.py", "doctor.py"} | {
        "archive.py",
        "journal_commands.py",
        "restore.py",
        "registry_wiring.py",
        "owner_process.py",
        "redis_copy.py",
    }
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        if path.name not in homes:
            names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
            assert names.isdisjoint(adapters), path


def test_every_path_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"`((?:tests|docs|configs|benchmarks)/[\w./-]+)`", (ROOT / "README.md").read_text()))
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
