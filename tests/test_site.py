"""The site of the documentation: an entry for each public name, strict links, and a search that finds."""

import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest

import mahsm

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ENTRY = re.compile(r"^\.\. auto\w+:: ([\w.]+)$", re.MULTILINE)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def rooms() -> Iterator[ModuleType]:
    """The package, and its public modules."""
    yield mahsm
    for found in pkgutil.walk_packages(mahsm.__path__, "mahsm."):
        if not any(part.startswith("_") for part in found.name.split(".")):
            yield importlib.import_module(found.name)


def public_names() -> Iterator[str]:
    """Each public thing under its shortest name."""
    seen: set[int] = set()
    for room in rooms():
        for name in getattr(room, "__all__", ()):
            thing = getattr(room, name)
            if not isinstance(thing, ModuleType) and id(thing) not in seen:
                seen.add(id(thing))
                yield f"{room.__name__}.{name}"


def test_each_public_name_has_one_entry() -> None:
    entries = [name for page in (DOCS / "reference").glob("*.md") for name in ENTRY.findall(page.read_text())]
    assert sorted(entries) == sorted(set(public_names()) - {"mahsm.cli.main"})  # that is the command's page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", str(DOCS), str(folder)]
    subprocess.run(command, check=True, cwd=ROOT)
    return folder


@pytest.mark.slow
def test_the_site_has_copies_for_models(site: Path) -> None:
    listed = (site / "llms.txt").read_text()
    assert "how-to/limits.md" in listed
    assert "mahsm.vmap(target: object, *, batch_key" in (site / "reference" / "edges.md").read_text()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """Where the site is served; from files, a browser does not let the search read the pages."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium; Debian has chromium-driver")
def test_the_search_finds_vmap(address: str) -> None:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        browser.implicitly_wait(60)
        browser.get(f"{address}/search.html?q=vmap")
        found = {link.text for link in browser.find_elements("css selector", "#search-results li a")}
        errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        browser.quit()
    assert "mahsm.vmap" in found
    assert errors == []
