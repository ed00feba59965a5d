"""Reads the package's messages out of its source: what is raised, printed or logged, with `…` where a value stands.

    raise InvalidOption(option, value, "give a whole number")      ->  InvalidOption: …=…: give a whole number
    logs.event(logging.ERROR, f"child {pid} died: {reason}")       ->  log: child … died: …

A text that a function is given, or takes from a table, is followed to where it is written.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from itertools import product
from pathlib import Path

VALUE = "…"
"""Stands for what is only known when the message is made; for several in a row, too."""

DEEPEST = 4
"""Through so many functions and tables a text is followed."""

EXCEPTIONS_OF_PYTHON = {
    "AttributeError", "LookupError", "RuntimeError", "TimeoutError", "TypeError", "ValueError", "ProgrammingError",
}  # fmt: skip
"""Raised here with texts of ours. An `AssertionError` is for who writes an enqueuer, and stands in its test's report."""

CALLS = {
    "ArgumentError": ("command line", 1),
    "ArgumentTypeError": ("command line", 0),
    "self.error": ("command line", 0),
    "_refuse": ("command line", 1),
    "bad": ("dashboard", 0),
    "Refusal": ("dashboard", 2),
    "logs.event": ("log", 1),
    "_log": ("log", 2),
    "_log.log": ("log", 1),
    "log_failure": ("log", 1),
    "_log.info": ("log", 0),
    "_log.debug": ("log", 0),
    "_log.warning": ("log", 0),
    "_log.exception": ("log", 0),
    "_worker.warning": ("log", 0),
    "_worker.error": ("log", 0),
    "_fail_killed": ("last_error", 1),
    "print": ("command line", 0),
}
"""Calls that carry a message elsewhere than in an exception: where it goes, and which argument it is."""

REASONS = {
    "timed_out_after": "return", "open_for_too_long": "return", "result_of": "return", "sentence": "return",
    "_is_sound": "error", "take_over": "error", "follow_aggregates": "why", "_settle_each": "text", "_work": "text",
}  # fmt: skip
"""Functions that make what a job's `last_error` says where nothing is raised, and what they call it."""

SAME = {**dict.fromkeys(("JobTimeout", "JobCancelled", "ChildDied"), "last_error"), "JobActive": "WrongState"}
"""What says the same as something else: what interrupts a job is what its `last_error` says."""


class Module:
    """A file of the package, with what is defined at its top level and where each node stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.outer: dict[ast.AST, ast.AST] = {}
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                self.outer[child] = node

    def function_around(self, node: ast.AST) -> ast.FunctionDef | None:
        while not isinstance(node, ast.FunctionDef):
            if node not in self.outer:
                return None
            node = self.outer[node]
        return node


class Source:
    """The whole package."""

    def __init__(self, package: Path) -> None:
        self.modules = [Module(path) for path in sorted(package.rglob("*.py"))]
        self.nodes = [(module, node) for module in self.modules for node in ast.walk(module.tree)]
        self.calls: dict[str, list[tuple[Module, ast.Call]]] = defaultdict(list)
        self.constants: dict[str, list[tuple[Module, ast.expr]]] = defaultdict(list)
        self.classes: dict[str, tuple[Module, ast.ClassDef]] = {}
        for module, node in self.nodes:
            if isinstance(node, ast.Call):
                for name in called(node):
                    self.calls[name].append((module, node))
            elif isinstance(node, ast.ClassDef):
                self.classes[node.name] = module, node
        for module in self.modules:
            for node in module.tree.body:
                target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
                if isinstance(target, ast.Name) and isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
                    self.constants[target.id].append((module, node.value))

    # --- texts ----------------------------------------------------------------------------------------------------------

    def texts(self, module: Module, node: ast.expr, depth: int = 0) -> set[str]:
        """Return what an expression may read."""
        found: set[str] = set()
        match node:
            case ast.Constant(value=str(text)):
                found = {text}
            case ast.JoinedStr(values=parts):
                found = {"".join(part.value if isinstance(part, ast.Constant) else VALUE for part in parts)}
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                found = {a + b for a, b in product(self.texts(module, left, depth), self.texts(module, right, depth))}
            case ast.IfExp(body=one, orelse=other):
                found = self.texts(module, one, depth) | self.texts(module, other, depth)
            case ast.Subscript(value=whole, slice=ast.Slice()) | ast.Call(func=ast.Name(id="storable"), args=[whole]):
                found = self.texts(module, whole, depth)
            case ast.Name() | ast.Subscript() if depth < DEEPEST:
                found = set(self._behind(module, node, depth + 1))
        return found or {VALUE}

    def _behind(self, module: Module, node: ast.expr, depth: int) -> Iterator[str]:
        """Yield what a variable, an argument or a member of a table may read."""
        name = node if isinstance(node, ast.Name) else node.value if isinstance(node, ast.Subscript) else None
        if not isinstance(name, ast.Name):
            return
        function = module.function_around(node)
        for home, value in self._values(module, function, name.id):
            if isinstance(node, ast.Name):
                yield from self.texts(home, value, depth)
            elif isinstance(value, ast.Dict):
                for member in value.values:
                    yield from self.texts(home, member, depth)
            else:
                yield from self._behind(home, ast.Subscript(value, ast.Constant(0)), depth) if depth < DEEPEST else ()

    def _values(self, module: Module, function: ast.FunctionDef | None, name: str) -> Iterator[tuple[Module, ast.expr]]:
        if function is not None:
            for node in ast.walk(function):
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                    yield module, node.value
            yield from self._given(function, name)
        constants = self.constants[name]
        own = [constant for constant in constants if constant[0] is module]
        yield from own or (constants if name.isupper() else [])

    def _given(self, function: ast.FunctionDef, name: str) -> Iterator[tuple[Module, ast.expr]]:
        """Yield what is given for a parameter wherever the function is called."""
        parameters = function.args.posonlyargs + function.args.args
        names = [parameter.arg for parameter in parameters if parameter.arg not in ("self", "cls")]
        defaults = dict(zip(reversed(names), reversed(function.args.defaults), strict=False))
        if name not in names + [parameter.arg for parameter in function.args.kwonlyargs]:
            return
        for module, call in self.calls[function.name]:
            given = {keyword.arg: keyword.value for keyword in call.keywords} | dict(zip(names, call.args, strict=False))
            value = given.get(name, defaults.get(name))
            if value is not None:
                yield module, value

    # --- exceptions -----------------------------------------------------------------------------------------------------

    @cached_property
    def exceptions(self) -> set[str]:
        """The names of the package's exceptions, those that are only used inside too."""
        found = {"Exception", "BaseException"}
        while True:
            more = {
                name for name, (_, node) in self.classes.items() if found & {ast.unparse(base) for base in node.bases}
            } - found
            if not more:
                return found - {"Exception", "BaseException"}
            found |= more

    def template(self, name: str) -> tuple[list[str], ast.expr] | None:
        """Return the parameters of an exception and the text that it makes of them; None where it takes its text."""
        if name not in self.classes:
            return None
        node = self.classes[name][1]
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                names = [parameter.arg for parameter in inner.args.args[1:]]
                for call in ast.walk(inner):
                    if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                        return names, call.args[0]
        return next((found for base in node.bases if (found := self.template(ast.unparse(base)))), None)

    def said(self, module: Module, kind: str, arguments: list[ast.expr]) -> set[str]:
        """Return what an exception of this kind says that is made of these arguments."""
        template = self.template(kind)
        if template is None:
            return self.texts(module, arguments[0]) if arguments else set()
        names, text = template
        given = dict(zip(names, arguments, strict=False))
        last = names[-1]
        parts = []
        for part in text.values if isinstance(text, ast.JoinedStr) else [text]:
            if isinstance(part, ast.Constant):
                parts.append({part.value})
                continue
            value = given.get(ast.unparse(part.value)) if isinstance(part, ast.FormattedValue) else None
            named = isinstance(part, ast.FormattedValue) and part.conversion == -1
            if value is not None and ast.unparse(part.value) == last and part is text.values[-1]:
                parts.append(self.texts(module, value))
            elif named and isinstance(value, ast.Constant):
                parts.append({str(value.value)})
            else:
                parts.append({VALUE})
        return {"".join(combination) for combination in product(*parts)}

    # --- all of them ----------------------------------------------------------------------------------------------------

    def messages(self) -> dict[str, set[str]]:
        """Return the messages of each kind: an exception's name, or where else they go."""
        found: dict[str, set[str]] = defaultdict(set)
        for module, node in self.nodes:
            for kind, texts in self._messages_of(module, node):
                found[SAME.get(kind, kind)] |= {clean(text) for text in texts if re.search("[a-z]{2}", text)}
        return {kind: texts for kind, texts in found.items() if texts}

    def _messages_of(self, module: Module, node: ast.AST) -> Iterator[tuple[str, set[str]]]:
        if isinstance(node, ast.Call):
            for name in called(node):
                if name in self.exceptions | EXCEPTIONS_OF_PYTHON and name not in CALLS:
                    yield name, self.said(module, name, node.args)
            kind, position = CALLS.get(ast.unparse(node.func)) or CALLS.get(called(node)[-1]) or ("", 0)
            to_people = kind != "command line" or called(node) != ["print"] or "file=sys.stderr" in ast.unparse(node)
            if kind and to_people and len(node.args) > position:
                yield kind, self.texts(module, node.args[position])
        elif isinstance(node, ast.Tuple) and len(node.elts) == 2 and ast.unparse(node.elts[0]) in self.exceptions:
            yield ast.unparse(node.elts[0]), {f"{VALUE}: {text}" for text in self.texts(module, node.elts[1]) if text}
        elif isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple) and module.path.name == "_doctor.py":
            status, text, _ = node.value.elts
            if self.texts(module, status) != {"ok"}:
                yield "doctor", self.texts(module, text)
        elif isinstance(node, ast.FunctionDef) and node.name in REASONS:
            yield "last_error", {text for value in assigned(node, REASONS[node.name]) for text in self.texts(module, value)}


def assigned(function: ast.FunctionDef, name: str) -> Iterator[ast.expr]:
    """Yield what a function gives this name, in a variable or a member; or what it returns, the last of several."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            yield node.value
        elif isinstance(node, ast.Dict):
            yield from (
                value for key, value in zip(node.keys, node.values, strict=True) if key and ast.unparse(key) == repr(name)
            )
        elif isinstance(node, ast.Return) and node.value and name == "return":
            yield node.value.elts[-1] if isinstance(node.value, ast.Tuple) else node.value


def called(call: ast.Call) -> list[str]:
    """Return the name of what is called, without what stands before its dot; both where it is one of two."""
    choices = [call.func.body, call.func.orelse] if isinstance(call.func, ast.IfExp) else [call.func]
    return [ast.unparse(choice).rpartition(".")[2] for choice in choices]


def clean(text: str) -> str:
    """Return a message in one line, with one sign for values in a row."""
    return re.sub(f"{VALUE}+", VALUE, " ".join(re.sub("%[sd]", VALUE, text).split()))
