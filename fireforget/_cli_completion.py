"""The command `completion`: a script for bash or zsh that completes commands, flags, queues and ids, made from the parser itself.

A script is tables (what a command has below it, which flags, what each takes) and a front for one shell that walks the words so
far through them. Names and ids are asked for as they are: `fireforget completion queues|schedules|ids BEGINNING` prints what
begins so.
"""

import argparse
import shlex
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fireforget._cli_common import Commands, add_command, opened
from fireforget.errors import FireforgetError
from fireforget.task import State

_KINDS = {"ID": "ids", "STATE": "states", "PATH": "files", "FOLDER": "folders"}
"""What completes a value, by its metavar; a NAME is that of what the command is about, unless the flag says so itself."""
_NAMES = {"queue": "queues", "in_queue": "queues", "group": "nothing", "task_id": "nothing"}
_NAMES_OF_COMMANDS = {" queue": "queues", " cron": "schedules"}
_ASKED = ("queues", "schedules", "ids")
_MOST_IDS = 50


class _Entry(NamedTuple):
    """One command as the tables have it."""

    path: str
    """Its words, each with a space before it."""
    commands: list[tuple[str, str]]
    """What stands below it, and the help."""
    flags: list[tuple[str, str]]
    takes: list[tuple[str, str]]
    """Flags that take a value, and the kind of it."""
    place: str
    """The kind of its positional arguments; "" where it has none."""


def add_completion(commands: Commands, root: argparse.ArgumentParser) -> None:
    """Add `completion` of the commands of `root`."""
    completion = add_command(
        commands,
        "completion",
        _print,
        "print a script that completes commands, flags, queues and ids in a shell",
        "completion bash > ~/.local/share/bash-completion/completions/fireforget\ncompletion zsh > ~/.zfunc/_fireforget",
    )
    completion.set_defaults(root=root)
    completion.add_argument("what", choices=("bash", "zsh", *_ASKED), metavar="SHELL", help="bash or zsh")
    completion.add_argument("beginning", nargs="?", default="", help=argparse.SUPPRESS)


def _print(arguments: argparse.Namespace) -> int:
    if arguments.what in _FRONTS:
        print(script(arguments.root, arguments.what))
        return 0
    try:
        with opened(arguments) as (_, inspector):
            if arguments.what == "ids":
                found = inspector.ids_beginning(arguments.beginning, _MOST_IDS)
            else:
                schedules = arguments.what == "schedules"
                names = [schedule.name for schedule in inspector.schedules()] if schedules else inspector.queue_names()
                found = [name for name in names if name.startswith(arguments.beginning)]
    except FireforgetError:  # nobody wants to read of it in the middle of a line
        return 1
    print("\n".join(name for name in found if name.isprintable()))
    return 0


# --- the tables -------------------------------------------------------------------------------------------------------


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for a shell, "bash" or "zsh"."""
    script = _FRONTS[shell].replace("@TAKE_WORD@", _TAKE_WORD).replace("@KIND@", _KIND)
    return script.replace("@TABLES@", _tables(list(_walk(parser, ""))))


def _walk(parser: argparse.ArgumentParser, path: str) -> Iterator[_Entry]:
    below: dict[str, argparse.ArgumentParser] = {}
    commands: list[tuple[str, str]] = []
    actions = list(parser._actions)
    if path == " worker":  # whose flags are a parser of their own
        from fireforget.worker import parser as of_worker

        actions += [action for action in of_worker()._actions if action.option_strings]
    flags: dict[str, str] = {}
    takes: dict[str, str] = {}
    place = ""
    for action in actions:
        help = "" if action.help in (None, argparse.SUPPRESS) else parser._get_formatter()._expand_help(action)
        if isinstance(action, argparse._SubParsersAction):
            below.update(action.choices)
            commands += [(choice.dest, choice.help or "") for choice in action._choices_actions]
        elif not action.option_strings and action.help != argparse.SUPPRESS:
            place = place or _kind_of(action, path)
        for flag in action.option_strings:
            if flag.startswith("--"):
                flags[flag] = help
                if action.nargs != 0:
                    takes[flag] = _kind_of(action, path)
    yield _Entry(path, commands, list(flags.items()), list(takes.items()), place)
    for name, command in below.items():
        yield from _walk(command, f"{path} {name}")


def _kind_of(action: argparse.Action, path: str) -> str:
    """Return what completes an action's value: a kind that the script knows, or words to choose from."""
    if action.choices is not None:
        return " ".join(str(choice) for choice in action.choices if choice not in _ASKED)
    if action.dest in _NAMES:
        return _NAMES[action.dest]
    if action.metavar == "NAME":
        return _NAMES_OF_COMMANDS.get(path[: path.find(" ", 1)], "nothing")
    return _KINDS.get(action.metavar if isinstance(action.metavar, str) else "", "nothing")


def _tables(entries: list[_Entry]) -> str:
    takes = [(f"{entry.path} {flag}", kind) for entry in entries for flag, kind in entry.takes]
    return "\n".join(
        [
            _function("commands", ((entry.path, _lines(entry.commands)) for entry in entries)),
            _function("flags", ((entry.path, _lines(entry.flags)) for entry in entries)),
            _function("takes", takes),
            _function("place", ((entry.path, entry.place) for entry in entries)),
            _function("is_command", ((entry.path, "yes") for entry in entries if entry.path)),
            _function("words", [("states", "\n".join(State))]),
        ]
    )


def _lines(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{word}\t{' '.join(help.split())}" for word, help in pairs)


def _function(name: str, cases: Iterable[tuple[str, str]]) -> str:
    """Return a function of both shells that prints the text of a case."""
    by_text: dict[str, list[str]] = {}
    for key, text in cases:
        if text:
            by_text.setdefault(text, []).append(shlex.quote(key))
    arms = "\n".join(f"        {'|'.join(keys)}) printf '%s\\n' {shlex.quote(text)} ;;" for text, keys in by_text.items())
    return f'__fireforget_{name}() {{\n    case "$1" in\n{arms}\n    esac\n}}'


# --- the fronts -------------------------------------------------------------------------------------------------------

_TAKE_WORD = r"""        if [[ -n $kind ]]; then
            [[ $flag == --db ]] && db=(--db "$word")
            kind=""
        elif [[ $word == --*=* ]]; then
            [[ $word == --db=* ]] && db=(--db "${word#*=}")
        elif [[ $word == -* ]]; then
            flag="$word"
            kind="$(__fireforget_takes "$path_so_far $word")"
        elif [[ -n "$(__fireforget_is_command "$path_so_far $word")" ]]; then
            path_so_far="$path_so_far $word"
        fi"""
"""What both shells do with a word that stands before the one to complete."""

_KIND = r"""    if [[ -z $kind && $current == --*=* ]]; then
        kind="$(__fireforget_takes "$path_so_far ${current%%=*}")"
        current="${current#*=}"
    elif [[ -z $kind && $current == -* ]]; then
        kind=flags
    elif [[ -z $kind && -n "$(__fireforget_commands "$path_so_far")" ]]; then
        kind=commands
    elif [[ -z $kind ]]; then
        kind="$(__fireforget_place "$path_so_far")"
    fi"""
"""How both find out what the word to complete is, where the flag before it has not said so."""

_BASH = r"""# bash completion for fireforget; made by: fireforget completion bash
@TABLES@
_fireforget() {
    local current="" path_so_far="" kind="" flag="" word line broken candidate i
    local -a words db=() found=()
    COMPREPLY=()
    read -ra words <<< "${COMP_LINE:0:COMP_POINT}"
    if [[ "${COMP_LINE:0:COMP_POINT}" != *[[:space:]] ]]; then
        current="${words[${#words[@]}-1]}"
        unset "words[${#words[@]}-1]"
    fi
    for word in "${words[@]:1}"; do
@TAKE_WORD@
    done
@KIND@
    case "$kind" in
        "" | nothing) return ;;
        files) compopt -o filenames 2> /dev/null; candidate="$(compgen -f -- "$current")" ;;
        folders) compopt -o filenames 2> /dev/null; candidate="$(compgen -d -- "$current")" ;;
        queues | schedules | ids) candidate="$("${words[0]}" completion "$kind" "$current" "${db[@]}" 2> /dev/null)" ;;
        commands) candidate="$(__fireforget_commands "$path_so_far")" ;;
        flags) candidate="$(__fireforget_flags "$path_so_far")" ;;
        states) candidate="$(__fireforget_words states)" ;;
        *) candidate="${kind// /$'\n'}" ;;
    esac
    broken="${current%"${current##*[:=]}"}"  # bash replaces what stands behind the last of these alone
    while read -r line; do
        line="${line%%$'\t'*}"
        [[ -n $line && $line == "$current"* ]] && COMPREPLY+=("$(printf '%q' "${line#"$broken"}")")
    done <<< "$candidate"
}
complete -F _fireforget fireforget"""

_ZSH = r"""#compdef fireforget
# zsh completion for fireforget; made by: fireforget completion zsh
@TABLES@
_fireforget() {
    local current="${words[CURRENT]}" path_so_far="" kind="" flag="" word i
    local -a db lines described
    for ((i = 2; i < CURRENT; i++)); do
        word="${words[i]}"
@TAKE_WORD@
    done
    [[ -z $kind && $current == --*=* ]] && compset -P '*='
@KIND@
    case "$kind" in
        "" | nothing) return 1 ;;
        files) _files; return ;;
        folders) _files -/; return ;;
        queues | schedules | ids) lines=("${(@f)$("${words[1]}" completion "$kind" "$current" "${db[@]}" 2> /dev/null)}") ;;
        commands) lines=("${(@f)$(__fireforget_commands "$path_so_far")}") ;;
        flags) lines=("${(@f)$(__fireforget_flags "$path_so_far")}") ;;
        states) lines=("${(@f)$(__fireforget_words states)}") ;;
        *) lines=("${(@s: :)kind}") ;;
    esac
    lines=("${(@)lines:#}")
    if [[ $kind == commands || $kind == flags ]]; then
        described=("${(@)lines/$'\t'/:}")
        _describe "$kind" described
    else
        compadd -a lines
    fi
}
if [[ "${funcstack[1]}" == _fireforget ]]; then
    _fireforget "$@"
else
    compdef _fireforget fireforget
fi"""

_FRONTS = {"bash": _BASH, "zsh": _ZSH}
