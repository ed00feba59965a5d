"""Finding an application's registry, and saying what is wrong when it is not there."""

import sys
import textwrap

import pytest

from fireforget.app import AppError, load_registry


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module into the current folder; forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def module(name, code):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))

    yield module
    for name in set(sys.modules) - before:
        if name.startswith("ff_app"):
            del sys.modules[name]


def test_a_registry_is_found_in_the_current_folder(module):
    """Also inside a namespace of the module."""
    module("ff_app_good", "from fireforget import Registry\nregistry = Registry()\nclass jobs: registry = registry")
    registry = load_registry("ff_app_good:registry")
    assert load_registry("ff_app_good:jobs.registry") is registry


@pytest.mark.parametrize("app", ["", "jobs", "jobs:", ":registry", ":"])
def test_a_name_of_the_wrong_form_is_explained(app):
    """With an example."""
    with pytest.raises(AppError, match="must be module:registry, such as"):
        load_registry(app)


@pytest.mark.parametrize(
    ("app", "meant"),
    [
        ("ff_app.py:registry", "ff_app:registry"),
        ("ff_app.py", "ff_app:registry"),
        ("ff_app", "ff_app:registry"),
        ("ff_app.registry", "ff_app:registry"),
        ("ff_package/jobs.py:jobs", "ff_package.jobs:jobs"),
        ("./ff_package/jobs.py", "ff_package.jobs:registry"),
        ("ff_package.jobs", "ff_package.jobs:registry"),
        ("ff_package.jobs.registry", "ff_package.jobs:registry"),
    ],
)
def test_a_name_of_the_wrong_form_gets_the_right_one_proposed(module, tmp_path, app, meant):
    """A file's name, a module alone, a dot where the colon belongs; nothing is imported for it."""
    module("ff_app", "1 / 0")
    (tmp_path / "ff_package").mkdir()
    module("ff_package/jobs", "1 / 0")
    with pytest.raises(AppError) as caught:
        load_registry(app)
    assert str(caught.value).endswith(f"such as {meant}")


def test_a_module_that_is_not_there_says_where_it_was_looked_for(module, tmp_path):
    """The commonest mistake: started in another folder."""
    with pytest.raises(AppError, match=r"ff_app_missing.*cannot be imported") as caught:
        load_registry("ff_app_missing:registry")
    assert str(tmp_path) in str(caught.value)
    assert str(caught.value).endswith("cd to the application's folder, or set PYTHONPATH to it")
    with pytest.raises(AppError, match="or set PYTHONPATH"):
        load_registry("ff_app_missing.jobs:registry")


@pytest.mark.parametrize("code", ["1 / 0", "import ff_app_nothing", "raise SystemExit(3)", "def f(:"])
def test_a_module_that_fails_shows_its_own_traceback_alone(module, code):
    """The line of the application is in it, our frames and importlib's are not."""
    module("ff_app_bad", f"x = 1\n{code}\n")
    with pytest.raises(AppError) as caught:
        load_registry("ff_app_bad:registry")
    text = str(caught.value)
    assert "ff_app_bad.py" in text
    assert code in text
    assert "importlib" not in text.replace("ModuleNotFoundError", "")
    assert "fireforget/app.py" not in text


def test_a_wrong_variable_gets_the_right_one_proposed(module):
    """Missing, or something else than a registry."""
    module("ff_app_other", "from fireforget import Registry\njobs = Registry()\nregistry = 5")
    for app in ("ff_app_other:registyr", "ff_app_other:registry"):
        with pytest.raises(AppError, match="did you mean ff_app_other:jobs"):
            load_registry(app)
    module("ff_app_none", "registry = None")
    with pytest.raises(AppError, match="no Registry at all"):
        load_registry("ff_app_none:registry")


def test_an_interrupt_while_importing_is_an_interrupt(module):
    """Who presses Ctrl-C gets no error message about imports."""
    module("ff_app_interrupt", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_registry("ff_app_interrupt:registry")
