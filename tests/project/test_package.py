"""What is handed out works: the sdist has all that is needed, the wheel made of it is installed elsewhere and runs the demo.

One sdist, one wheel and one environment for all tests. It takes setuptools: that of this environment where it can build wheels,
else one that pip fetches. Without either the tests are skipped.
"""

import email.message
import email.parser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fireforget

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PATIENCE = 120
"""Seconds that a build, an installation or the demo may take."""
PYTHON_OF_A_VENV = Path("Scripts" if os.name == "nt" else "bin", "python")


def run(*command: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with nothing of this checkout in its way."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FIREFORGET"))}
    return subprocess.run(
        command, cwd=folder, env=inherited | environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def build(what: str, source: Path, target: Path, setuptools: str) -> Path:
    """Build an sdist or a wheel as pip and build do, by the backend's own function; return the file."""
    target.mkdir()
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{what}({str(target)!r}))"
    done = run(sys.executable, "-c", code, folder=source, PYTHONPATH=setuptools)
    assert done.returncode == 0, done.stderr
    (built,) = target.iterdir()
    return built


def find_setuptools(folder: Path) -> str:
    """Return the path of a setuptools that builds wheels, "" for that of this environment; skips where there is none."""
    can_build = (
        "import setuptools, importlib.util as u; v = tuple(map(int, setuptools.__version__.split('.')[:2])); "
        "assert v >= (70, 1) or v >= (68, 0) and u.find_spec('wheel')"
    )
    if run(sys.executable, "-c", can_build, folder=folder).returncode == 0:
        return ""
    target = str(folder / "fetched")
    fetch = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "0", "--target", target]
    done = run(sys.executable, *fetch, "setuptools>=70.1", folder=folder)
    if done.returncode != 0:
        pytest.skip(f"no setuptools here that builds wheels, and none was to be had: {done.stderr.strip().splitlines()[-1:]}")
    return target


class Handed(NamedTuple):
    """What was built."""

    sdist: Path
    wheel: Path


def tracked() -> list[str]:
    """Return the files of the checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a checkout")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def handed(tmp_path_factory: pytest.TempPathFactory) -> Handed:
    """Build the sdist of a copy, which a build may write into, and the wheel of the unpacked sdist, which has all for it."""
    folder = tmp_path_factory.mktemp("package")
    for name in tracked():
        copy = folder / "checkout" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy)
    setuptools = find_setuptools(folder)
    sdist = build("sdist", folder / "checkout", folder / "sdist", setuptools)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    return Handed(sdist, build("wheel", source, folder / "wheel", setuptools))


@pytest.fixture(scope="module")
def python(handed: Handed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment that has the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("clean")
    assert run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", folder=folder).returncode == 0
    python = folder / "venv" / PYTHON_OF_A_VENV
    pip = ["-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    done = run(sys.executable, *pip, handed.wheel, folder=folder)
    if "No module named pip" in done.stderr:
        pytest.skip("no pip here")
    assert done.returncode == 0, done.stderr
    return python


def metadata(wheel: Path) -> email.message.Message:
    """Return what an index is told of the package."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(archive.read(name).decode())


# --- what is in it --------------------------------------------------------------------------------------------------------


def test_the_sdist_has_the_tests_the_docs_and_the_examples(handed: Handed) -> None:
    """Distributions test what they package; only what is about the checkout itself stays behind."""
    with tarfile.open(handed.sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    expected = {name for name in tracked() if not name.startswith((".ci/", ".git"))}
    assert expected <= names
    made = {name for name in names - expected if ".egg-info/" not in name}
    assert made == {"PKG-INFO", "setup.cfg"}


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(handed: Handed) -> None:
    """The dashboard's page and the mark of its types among them; no tests, which would land beside those of others."""
    with zipfile.ZipFile(handed.wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {name for name in tracked() if name.startswith("fireforget/")}
    assert {"fireforget/py.typed", "fireforget/_dashboard/static/app.js"} <= names


def test_the_wheel_says_what_it_is(handed: Handed) -> None:
    """Its version, its licence, its README, what it needs, which is nothing, and the command that it brings."""
    told = metadata(handed.wheel)
    assert (told["Name"], told["Version"]) == ("fireforget", fireforget.__version__)
    assert told["Requires-Python"] == ">=3.11"
    assert told["Description-Content-Type"] == "text/markdown"
    assert told.get_payload().strip().startswith("# fireforget")  # type: ignore[union-attr]
    assert [need for need in told.get_all("Requires-Dist", []) if "extra ==" not in need] == []
    assert set(told.get_all("Provides-Extra", [])) == {"celery", "test", "dev"}
    with zipfile.ZipFile(handed.wheel) as archive:
        read = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert "Permission is hereby granted" in read["LICENSE"]
    assert re.search(r"(?m)^fireforget *= *fireforget\.cli:main$", read["entry_points.txt"])
    assert handed.wheel.name.endswith("-py3-none-any.whl")


def test_classifiers_extras_and_packages_are_those_of_the_project() -> None:
    """What pyproject.toml says by hand is what there is."""
    project: dict[str, Any] = PROJECT["project"]
    said = project["classifiers"]
    least = int(re.fullmatch(r">=3\.(\d+)", project["requires-python"])[1])  # type: ignore[index]
    minors = sorted(
        int(found[1]) for name in said if (found := re.fullmatch(r"Programming Language :: Python :: 3\.(\d+)", name))
    )
    assert minors == list(range(least, minors[-1] + 1))
    assert said == sorted(said) and "Typing :: Typed" in said
    extras = project["optional-dependencies"]
    assert set(extras["test"]) <= set(extras["dev"])
    packages = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / "fireforget").rglob("__init__.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


# --- that it runs ---------------------------------------------------------------------------------------------------------


def installed(python: Path, folder: Path, *arguments: str) -> str:
    """Run Python of the new environment in a folder of its own; return what it printed."""
    done = run(python, *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_run_where_it_is_installed(python: Path, tmp_path: Path) -> None:
    """By its name and as a module, and so does the worker."""
    command = run(python.with_name("fireforget"), "--version", folder=tmp_path)
    assert command.stdout == f"fireforget {fireforget.__version__}\n"
    assert installed(python, tmp_path, "-m", "fireforget", "--version") == command.stdout
    assert installed(python, tmp_path, "-m", "fireforget.worker", "--help").startswith("usage: python -m fireforget.worker")


def test_the_demo_runs_where_it_is_installed(python: Path, tmp_path: Path) -> None:
    """Its worker and children find the package too."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("fire and forget, fire and see")
    assert "stats --db" in installed(python, tmp_path, "-m", "fireforget", "demo", "notes")


SHOW = """
from pathlib import Path
import fireforget, fireforget.dashboard, sys

said = []
with fireforget.SqliteQueue("jobs.db") as queue:
    page = fireforget.dashboard.application(queue)
    asked = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_HOST": "localhost"}
    body = b"".join(page(asked, lambda status, headers: said.append(status)))
print(said[0], body[:15].decode(), Path(fireforget.__file__).is_relative_to(sys.prefix))
"""


def test_the_dashboard_shows_its_page_where_it_is_installed(python: Path, tmp_path: Path) -> None:
    """The files behind it came along."""
    assert installed(python, tmp_path, "-c", SHOW) == "200 OK <!doctype html> True\n"
