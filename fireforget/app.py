"""Finds an application's registry by its name, `module:name`, and says what is wrong when it is not there."""

import importlib
import os
import sys
import traceback

from fireforget._cli_parser import suggestion
from fireforget.errors import FireforgetError
from fireforget.registry import Registry


class AppError(FireforgetError):
    """The application cannot be loaded; the text has the import's own traceback where its code raised."""


def load_registry(app: str, *, flag: str = "APP") -> Registry:
    """Import `module:name` and return the registry of that name; the current folder is searched first.

    `flag` is what the command line calls it. Raises `AppError`.
    """
    target = load(app, flag, "registry", "shop.jobs")
    if not isinstance(target, Registry):
        raise AppError(f"{flag} {app!r} is {type(target).__name__}, not a Registry{_suggestion(app.partition(':')[0])}")
    return target


def load(name: str, flag: str, meant: str, example: str) -> object:
    """Import `module:name` and return what has that name, as the command line's `flag` wants; raises `AppError`.

    `meant` is what it is most often called, `example` a module's name, for the message.
    """
    module_name, separator, attribute = name.partition(":")
    if not separator or not module_name or not attribute or _is_file_name(module_name):
        likely = _meant(name, meant) or f"{example}:{meant}"
        raise AppError(f"{flag} is {name!r} and must be module:{meant}, such as {likely}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        target: object = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and _is_part_of(error.name, module_name):
            raise AppError(
                f"{flag} {name!r} cannot be imported: {error.msg}. It means the variable {attribute!r} of the module "
                f"{module_name!r}, searched from {os.getcwd()}: cd to the application's folder, or set PYTHONPATH to it"
            ) from error
        raise AppError(
            f"{flag} {name!r} cannot be imported. It means the variable {attribute!r} of the module {module_name!r}, searched "
            f"from {os.getcwd()}.\n{_own_traceback(error)}"
        ) from error
    for part in attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            hint = _suggestion(module_name) if meant == "registry" else suggestion(part, _takers(target))
            raise AppError(f"{flag} {name!r}: the module {module_name!r} has no {attribute!r}{hint}") from None
    return target


def _takers(module: object) -> list[str]:
    """Return the names of what could be an enqueuer."""
    return [name for name, value in vars(module).items() if hasattr(value, "enqueue") and not isinstance(value, type)]


def _is_file_name(module_name: str) -> bool:
    return module_name.endswith(".py") or os.sep in module_name


def _meant(app: str, attribute_meant: str) -> str:
    """Return what was most likely meant by a name of the wrong form; "" when that cannot be told."""
    path, _, attribute = app.partition(":")
    is_file = _is_file_name(path)
    parts = [part for part in path.removesuffix(".py").replace(os.sep, ".").split(".") if part]
    if not parts or not all(part.isidentifier() for part in parts):
        return ""
    if not attribute and not is_file and len(parts) > 1 and not _exists(parts):
        attribute = parts.pop()
    return f"{'.'.join(parts)}:{attribute or attribute_meant}"


def _exists(parts: list[str]) -> bool:
    """Return whether the current folder has such a module."""
    return os.path.isfile(os.path.join(*parts) + ".py") or os.path.isdir(os.path.join(*parts))


def _is_part_of(missing: str | None, module_name: str) -> bool:
    """Return whether the missing module is the application's own or a package around it, and not one that it imports."""
    return missing is not None and f"{module_name}.".startswith(f"{missing}.")


def _own_traceback(error: BaseException) -> str:
    """Return the traceback without the frames of this module and of importlib, which are nobody's mistake."""
    trace = error.__traceback__
    while trace is not None and (
        "importlib" in trace.tb_frame.f_code.co_filename or trace.tb_frame.f_code.co_filename == __file__
    ):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()


def _suggestion(module_name: str) -> str:
    names = [name for name, value in vars(sys.modules[module_name]).items() if isinstance(value, Registry)]
    return f": did you mean {module_name}:{names[0]}?" if names else ": it has no Registry at all"
