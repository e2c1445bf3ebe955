"""How the code reads, in numbers: two checkouts side by side.

    python -m scripts.style                           # this checkout
    python -m scripts.style --before /tmp/before      # beside another one

Counted over vision/ with the syntax tree: assignments of several values in one line
(`a, b = x, y`), names that do not say what they hold, lines over 100 columns, local variables,
parameters and branches of functions, annotated arguments, import cycles, and imports that run up
the floors of DESIGN.md.
"""

import argparse
import ast
import dataclasses
import graphlib
import pathlib
import statistics
from collections.abc import Iterator

REPOSITORY = pathlib.Path(__file__).parent.parent
COLUMNS = 100
# Names that say that something was returned or is left over, but never what.
VAGUE = {
    "found",
    "known",
    "one",
    "whole",
    "of",
    "held",
    "usual",
    "these",
    "those",
    "thing",
    "stuff",
}
# Every room may import those of the floors below it; rooms of one floor lie side by side.
FLOORS = (
    ("errors", "stages", "version"),
    ("support", "files", "page", "memory", "modules"),
    ("cli",),
    ("config",),
    ("ranges",),
    ("metrics", "parallel", "distributed", "cpu"),
    ("data",),
    ("models", "reference"),
    ("runtimes",),
    ("bundle",),
    ("tiles", "writers"),
    ("run",),
    ("objectives",),
    ("training",),
    ("inference",),
    ("matching", "explain"),
    ("predict", "audit", "evaluation", "continual", "synthesize", "runs", "recipe"),
    ("export",),
    ("compression",),
    ("search", "api"),
    ("main", "doctor"),
    ("command",),
    ("__main__",),
)
# These know only the bundle, tiles of images and what is below, so that they run without JAX.
BESIDE_BUNDLE = ("serving", "monitoring")
BELOW_BUNDLE = (
    "errors",
    "version",
    "support",
    "stages",
    "files",
    "cli",
    "config",
    "bundle",
    "runtimes",
    "reference",
    "data",
    "tiles",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
SCOPES = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)


@dataclasses.dataclass
class Source:
    """A file of the package.

    Attributes:
        module: its dotted name.
        text: what it holds.
        tree: the text, parsed.
    """

    path: pathlib.Path
    module: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The folder or file right below vision/; "" for vision itself."""
        parts = self.module.split(".")
        return parts[1] if len(parts) > 1 else ""

    def functions(self) -> Iterator[Function]:
        """Yields every function and method."""
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                yield node


def read(checkout: pathlib.Path) -> list[Source]:
    """Returns the files of a checkout's package, sorted."""
    sources = []
    for path in sorted((checkout / "vision").rglob("*.py")):
        parts = path.relative_to(checkout).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text()
        sources.append(Source(path, module, text, ast.parse(text)))
    return sources


def packed_assignments(source: Source) -> list[int]:
    """Returns the lines of assignments of a tuple to a tuple."""
    return [
        node.lineno
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Tuple)
        and any(isinstance(target, ast.Tuple) for target in node.targets)
    ]


def vague_names(source: Source) -> list[tuple[int, str]]:
    """Returns (line, name) of every binding of a name in `VAGUE`."""
    bindings = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            bindings.append((node.lineno, node.id if isinstance(node, ast.Name) else node.attr))
        elif isinstance(node, ast.arg):
            bindings.append((node.lineno, node.arg))
        elif isinstance(node, Function | ast.ClassDef):
            bindings.append((node.lineno, node.name))
    return [(line, name) for line, name in bindings if name.strip("_").lower() in VAGUE]


def wide_lines(source: Source) -> list[int]:
    """Returns the numbers of the lines over 100 columns."""
    lines = source.text.splitlines()
    return [number for number, line in enumerate(lines, 1) if len(line) > COLUMNS]


def local_variables(function: Function) -> int:
    """Returns how many names a function binds, without parameters and inner functions' own."""
    names = set()
    nodes: list[ast.AST] = list(function.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, SCOPES):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        nodes.extend(ast.iter_child_nodes(node))
    return len(names)


def parameters(function: Function, keyword_only: bool = True) -> int:
    """Returns how many parameters a function has besides self and cls."""
    arguments = [*function.args.posonlyargs, *function.args.args]
    if keyword_only:
        arguments += function.args.kwonlyargs
    return sum(argument.arg not in ("self", "cls") for argument in arguments)


def complexity(function: Function) -> int:
    """Returns McCabe's cyclomatic complexity: one more than the branches, without inner functions.

    McCabe 1976, "A complexity measure".
    """
    branches = 0
    nodes: list[ast.AST] = list(function.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, Function | ast.ClassDef | ast.Lambda):
            continue
        branches += isinstance(node, BRANCHES)
        nodes.extend(ast.iter_child_nodes(node))
    return 1 + branches


def annotated_arguments(source: Source) -> tuple[int, int]:
    """Returns (annotated, all) arguments of a file's functions, besides self and cls."""
    annotated = 0
    total = 0
    for function in source.functions():
        given = function.args
        for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs):
            if argument.arg not in ("self", "cls"):
                total += 1
                annotated += argument.annotation is not None
    return annotated, total


def imports(source: Source, modules: set[str]) -> set[str]:
    """Returns every module that a file imports, wherever the import stands.

    `from a import b` is a.b if there is such a module in `modules`, else a.
    """
    names = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                names.add(dotted if dotted in modules else node.module)
    return names


def allowed_rooms(room: str) -> set[str]:
    """Returns the rooms that a room may import."""
    if room in BESIDE_BUNDLE:
        return {room, *BELOW_BUNDLE}
    below: set[str] = set()
    for floor in FLOORS:
        if room in floor:
            return below | {room}
        below |= set(floor)
    return set()


def upward_imports(sources: list[Source]) -> list[str]:
    """Returns "MODULE imports ROOM" for every import that does not run downward."""
    modules = {source.module for source in sources}
    upward = []
    for source in sources:
        if not source.room:
            continue
        rooms = {
            name.split(".")[1] for name in imports(source, modules) if name.startswith("vision.")
        }
        for room in sorted(rooms - allowed_rooms(source.room)):
            upward.append(f"{source.module} imports {room}")
    return upward


def has_cycle(sources: list[Source]) -> bool:
    """Returns whether modules import each other in a circle."""
    modules = {source.module for source in sources}
    graph = {s.module: (imports(s, modules) & modules) - {s.module} for s in sources}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError:
        return True
    return False


def measure(checkout: pathlib.Path) -> dict[str, str]:
    """Returns {measure: value as text} of a checkout."""
    sources = read(checkout)
    lines = sum(len(source.text.splitlines()) for source in sources)
    functions = [function for source in sources for function in source.functions()]
    variables = sorted(map(local_variables, functions))
    annotated, arguments = map(sum, zip(*map(annotated_arguments, sources), strict=True))
    packed = sum(len(packed_assignments(source)) for source in sources)
    vague = sum(len(vague_names(source)) for source in sources)
    wide = sum(len(wide_lines(source)) for source in sources)
    tenth = variables[int(0.9 * len(variables))]
    return {
        "lines": f"{lines:,}",
        "files": f"{len(sources):,}",
        "packed assignments per 1,000 lines": f"{1000 * packed / lines:.2f}",
        "vague names per 1,000 lines": f"{1000 * vague / lines:.2f}",
        "lines over 100 columns": f"{100 * wide / lines:.2f} %",
        "local variables, median / p90 / max": (
            f"{statistics.median(variables):g} / {tenth} / {variables[-1]}"
        ),
        "parameters, max": f"{max(map(parameters, functions))}",
        "complexity, max": f"{max(map(complexity, functions))}",
        "annotated arguments": f"{100 * annotated / arguments:.1f} %",
        "import cycles": "yes" if has_cycle(sources) else "none",
        "upward imports": f"{len(upward_imports(sources))}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=pathlib.Path, help="another checkout, shown beside")
    flags = parser.parse_args()
    columns = {"now": measure(REPOSITORY)}
    if flags.before:
        columns = {"before": measure(flags.before.resolve())} | columns
    print(f"{'':36}", *(f"{name:>16}" for name in columns))
    for name in columns["now"]:
        print(f"{name:36}", *(f"{column[name]:>16}" for column in columns.values()))


if __name__ == "__main__":
    main()
