"""Pages are complete, lead somewhere, name what is there, and speak the words of the glossary."""

import html.parser
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from app.metrics import Metrics
from app.settings import all_settings
from tests.support.server import ROOT
from tests.support.variables import known_variables

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
OUTSIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
OUTSIDE += sorted(path for name in ("client", "saver") for path in (ROOT / name).glob("*.md"))
SOURCES = ("app", "bench", "client", "demo", "deploy", "examples", "saver", "tests")
ALL = [*OUTSIDE, ROOT / "CHANGELOG.md", *PAGES]
ARCHITECTURE = (DOCS / "architecture.md").read_text()


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def section(page: str, heading: str) -> str:
    return page.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table's lines, without its head."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return lines[2:]


# What is there.


def navigated(entry: object) -> list[str]:
    """The pages that a part of the menu names."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in navigated(part)]


def test_the_menu_names_every_page_once() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(navigated(menu)) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def test_the_start_page_leads_to_every_page() -> None:
    start = (DOCS / "index.md").read_text()
    for page in PAGES:
        if page.parent.name != "decisions":
            assert page.name == "index.md" or f"]({page.relative_to(DOCS).as_posix()}" in start, page


@cache
def anchors(page: Path) -> set[str]:
    """What the headings of a page are linked to by: on the site and on GitHub alike."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file() or file.is_dir(), target
        assert not anchor or anchor in anchors(file), target
        # A site has its own pages only.
        assert page not in PAGES or file.is_relative_to(DOCS), target


def test_anchors_that_differ_on_the_site_and_on_github_are_noticed() -> None:
    assert "two-engines" in anchors(DOCS / "discussion" / "exactness.md")
    assert "nowhere" not in anchors(DOCS / "discussion" / "exactness.md")
    for page in PAGES:
        assert not [anchor for anchor in anchors(page) if "--" in anchor], page


_FILE = re.compile(r"(?<![\w./-])(?:app|saver|client|tests|bench|demo|examples|deploy|docs)/[\w./-]*[\w/]")


@pytest.mark.parametrize("page", [*OUTSIDE, ROOT / "CHANGELOG.md", *PAGES], ids=name_of)
def test_files_that_a_page_names_exist(page: Path) -> None:
    for code in re.findall(r"`([^`\n]+)`", prose(page.read_text())):
        for file in _FILE.findall(code):
            assert (ROOT / file).exists(), file
        # Named by itself where its folder is clear.
        if re.fullmatch(r"\w+\.(py|c)", code):
            assert any(ROOT.glob(f"[a-z]*/**/{code}")), code


def sources(folder: str) -> list[Path]:
    files = [file for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".toml", ".sh", ".env", ".md")]
    return [file for file in files if "__pycache__" not in file.parts]


@pytest.mark.parametrize("folder", SOURCES)
def test_pages_that_sources_name_exist(folder: str) -> None:
    top = [ROOT / name for name in ("Makefile", "pyproject.toml", "Dockerfile", "docker-compose.yml", "mkdocs.yml")]
    for file in [*sources(folder), *top]:
        for page in re.findall(r"docs/[\w/-]+\.md|docs/decisions/\d{4}", file.read_text()):
            found = list(ROOT.glob(page if page.endswith(".md") else f"{page}-*.md"))
            assert len(found) == 1, f"{file}: {page}"


def test_what_one_wants_to_do_has_a_file() -> None:
    wanted = rows(section(ARCHITECTURE, "I want to …"))
    assert len(wanted) > 30
    for wish, files in wanted:
        found = re.findall(r"`([^`]+)`", files)
        assert found, wish
        for file in found:
            assert (ROOT / file).exists(), f"{wish}: {file}"


@pytest.mark.parametrize("trip", ["The trip of a request", "The trip of a new version"])
def test_every_station_of_a_trip_has_its_file(trip: str) -> None:
    stations = rows(section(ARCHITECTURE, trip))
    assert len(stations) > 10
    for *_, files in stations:
        for file in re.findall(r"`([^`]+)`", files) or pytest.fail(files):
            assert (ROOT / file).is_file(), file


def test_every_folder_of_the_server_says_where_it_runs() -> None:
    named = {re.findall(r"`([^`]+)`", first)[0] for first, *_ in rows(ARCHITECTURE.split("## The trip")[0])}
    folders = {f"app/{file.parent.name}/" for file in (ROOT / "app").glob("*/__init__.py")}
    assert named - {"app/worker.py"} == folders


# What is said of it.


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_make_targets_that_a_page_names_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", [*OUTSIDE, *PAGES], ids=name_of)
def test_settings_that_a_page_names_are_settings(page: Path) -> None:
    assert set(re.findall(r"POLICY_SERVER_[A-Z_]*[A-Z]", page.read_text())) <= known_variables()


PROGRAMS = {"policy-server": "app", "python -m app": "app", "policy-saver": "saver", "python -m saver": "saver"}


@cache
def usage(*command: str) -> str:
    return subprocess.run([sys.executable, "-m", *command, "--help"], capture_output=True, text=True, cwd=ROOT).stdout


@pytest.mark.parametrize("page", [*OUTSIDE, *PAGES], ids=name_of)
def test_commands_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text()
    for program, module in PROGRAMS.items():
        for line in re.findall(rf"(?:^|[`/]|&& ){program} ([a-z][^`\n]*)", text, re.MULTILINE):
            command, *rest = line.partition("    ")[0].split()
            assert command in usage(module), f"{program} {line}"
            for option in (word for word in rest if word.startswith("--")):
                assert option in usage(module, command), f"{program} {line}"


def test_metrics_are_listed_with_their_kinds() -> None:
    listed = rows(section((DOCS / "reference" / "configuration.md").read_text(), "Metrics"))
    ends = {"counter": "_total"}
    collected = {(family.name + ends.get(family.type, ""), family.type) for family in Metrics().registry.collect()}
    assert sorted((name.strip("`"), kind) for name, kind, *_ in listed) == sorted(collected)


def test_changes_are_sorted_by_what_they_are() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text()
    releases = re.split(r"^## ", changes, flags=re.MULTILINE)[1:]
    assert releases[0].startswith("[Unreleased]")
    for release in releases:
        kinds = re.findall(r"^### (.*)$", release, re.MULTILINE)
        keeps = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
        assert kinds == [kind for kind in keeps if kind in kinds]


def test_the_first_program_is_that_of_the_readme() -> None:
    program = r"^```python\n(.*?)^```"
    texts = [(ROOT / "README.md").read_text(), (DOCS / "tutorials" / "first-policy.md").read_text()]
    first, second = (re.findall(program, text, re.DOTALL | re.MULTILINE) for text in texts)
    assert first == second
    assert len(first) == 1


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 115


def test_decisions_are_numbered_and_titled() -> None:
    pages = sorted((DOCS / "decisions").glob("*.md"))
    for number, page in enumerate(pages, 1):
        assert page.name.startswith(f"{number:04}-")
        assert page.read_text().startswith(f"# {number:04} ")


# The words.

# What each of these was is one word now: docs/architecture.md has it. Words that mean something else as well
# (hold, begin, form) are left to readers.
_FORMER = re.compile(
    r"""\b(
    workshops? | fronts | front[ ]process(es)? | (the|a|an|each|every|one|this)[ ]front(?![ ]of) |
    waiting[ -]rooms? | (direct|data|control)[ ]ways? | (control[ ])?lanes? | knobs? | change-?overs? |
    patient | (quick|familiar|input)[ ]?readers? | familiar | held[ -]versions? | obstacles? |
    tell | tells | telling | told | remember(s|ed)? | recall(s|ed)? | tally | pour(s|ed)? |
    zygotes? | victims? | verdicts? | recipes? | ledgers? | desk
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)


def former(text: str) -> list[str]:
    """The words that are used no longer, as they stand in a text."""
    return [found[0] for found in _FORMER.finditer(text.replace("_", " "))]


def test_former_words_are_seen() -> None:
    assert former("the Workshop tells each front its --waiting-room-requests") == [
        *("Workshop", "tells", "each front", "waiting-room")
    ]
    assert former("a proxy in front of it; rows in front") == []


@pytest.mark.parametrize("page", [*OUTSIDE, *PAGES], ids=name_of)
def test_pages_use_no_former_word(page: Path) -> None:
    assert former(page.read_text()) == []


def test_changes_use_no_former_word_but_to_say_what_it_is_now() -> None:
    assert former(re.sub(r"`[^`]+`", "", (ROOT / "CHANGELOG.md").read_text())) == []


@pytest.mark.parametrize("folder", SOURCES)
def test_code_uses_no_former_word(folder: str) -> None:
    """In names, comments and messages alike; names in capitals are cut where words begin."""
    found = {}
    for file in sources(folder):
        words = former(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", file.read_text()))
        if words and file != Path(__file__):
            found[file.relative_to(ROOT).as_posix()] = sorted({word.lower() for word in words})
    assert found == {}


def test_settings_and_metrics_use_no_former_word() -> None:
    settings = [f"{setting.name}: {setting.metadata['help']}" for setting in all_settings()]
    metrics = [f"{family.name}: {family.documentation}" for family in Metrics().registry.collect()]
    assert not [text for text in settings + metrics if former(text)]


@pytest.mark.parametrize("command", [("app",), ("app", "serve"), ("app", "inspect"), ("saver",), ("saver", "push")])
def test_help_uses_no_former_word(command: tuple[str, ...]) -> None:
    assert former(usage(*command)) == []


def test_the_glossary_has_one_line_for_each_word_in_order() -> None:
    words = [word.strip("`").lower() for word, _ in rows(section(ARCHITECTURE, "Glossary"))]
    assert len(words) > 60
    assert words == sorted(set(words))
    assert {"worker", "builder", "control", "fast path", "queue", "skeleton", "typed decoder", "retain", "scan"} <= {
        *words
    }


# The site.


class Fetched(html.parser.HTMLParser):
    """What a browser fetches for a page, beside what a person follows."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "a":
            self.addresses += [value for name, value in attrs if name in ("src", "href") and value]


def test_what_a_page_fetches_is_seen() -> None:
    page = Fetched()
    page.feed('<a href="https://a"><script src="https://b/x.js"></script><link href="assets/c.css">')
    assert page.addresses == ["https://b/x.js", "assets/c.css"]


def test_the_site_is_whole_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    mkdocs = ROOT / ".site" / "bin" / "mkdocs"
    if not mkdocs.exists():
        pytest.skip("`make site` has not been run: there is no environment for it")
    done = subprocess.run(
        [mkdocs, "build", "--strict", "--site-dir", tmp_path / "site"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    built = list((tmp_path / "site").rglob("*.html"))
    assert len(built) == len(PAGES) + 1  # and the page for what is not found
    for file in built:
        page = Fetched()
        page.feed(file.read_text())
        assert page.addresses
        assert not [address for address in page.addresses if re.match(r"(https?:)?//", address)], file
