"""The house as its imports draw it, and what in it breaks a rule of docs/design.md."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

FREE = ("metrics", "tasks")  # axes that later axes may use
LIGHT = ("session", "planning", "recipes")  # rooms that open no torch, beside ground, faces and the catalog's rows
HEAVY = ("torch", "transformers", "peft", "accelerate", "safetensors.torch")
PAINT = ("rich", "matplotlib")  # records open none of these either
OPENS_TORCH = ("wheretune.demo", "wheretune.exports.peft")  # PEFT itself opens it
LINES, COMPLEXITY, PARAMETERS, FLOORS = 400, 15, 10, 13
ROW = re.compile(r"(wheretune(?:\.\w+)+):(\w+)")


def table(page: str) -> dict[str, list[str]]:
    """The rooms of each band, from the table `| band | room | holds |`, the ground first."""
    bands: dict[str, list[str]] = {}
    lines = iter(page.splitlines())
    assert any(line.startswith("| band | room |") for line in lines), "docs/design.md has no table of rooms"
    band = ""
    for line in lines:
        if not line.startswith("|"):
            break
        first, rooms = line.split("|")[1:3]
        band = first.strip() or band
        bands.setdefault(band, []).extend(re.findall(r"`(\w+)(?:/|\.py)`", rooms))
    return {name: rooms for name, rooms in bands.items() if rooms}


def picture(page: str) -> dict[str, list[list[str]]]:
    """The rooms of each band from the drawing, the ground first; a bar ends a group."""
    drawn = re.search(r"^## The rooms.*?\n\n((?: {4}[^\n]+\n)+)", page, flags=re.M | re.S)
    assert drawn, "docs/design.md has no picture of the bands"
    bands = {}
    for line in reversed(drawn[1].splitlines()):
        name, rooms = re.split(r" {2,}", line.strip(), maxsplit=1)
        bands[name] = [group.split() for group in rooms.split("|")]
    return bands


@dataclass
class File:
    """What one file imports: module -> in which ways ("now", "late", "types", "named")."""

    name: str
    tree: ast.Module
    lines: int
    package: bool
    imports: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def room(self) -> str:
        return [*self.name.split("."), ""][1]

    def runs(self, other: "File") -> bool:
        """Whether it opens `other`, at once or later."""
        return bool(self.imports[other.name] & {"now", "late"}) and not self.promises(other)

    def promises(self, other: "File") -> bool:
        """Whether it keeps a promise such as `scores.plot()`: records reach up late, in this one file alone."""
        late = self.imports[other.name] == {"late"}
        return self.name == "wheretune.records.base" and other.room in ("show", "exports") and late


class House:
    """All files below `src/wheretune` of a project, and its map."""

    def __init__(self, project: Path) -> None:
        page = (project / "docs" / "design.md").read_text(encoding="utf-8")
        self.bands = table(page)
        self.picture = picture(page)
        root = project / "src" / "wheretune"
        self.files: dict[str, File] = {}
        for path in sorted(root.rglob("*.py")):
            name = ".".join(("wheretune", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
            text = path.read_text(encoding="utf-8")
            self.files[name] = File(name, ast.parse(text), text.count("\n"), path.name == "__init__.py")
        for file in self.files.values():
            self._read(file, file.tree, "now")

    def _read(self, file: File, node: ast.AST, way: str) -> None:
        """Notes the imports below `node`."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for part in child.body:
                    self._read(file, ast.Module([part], []), "types")
                self._read(file, ast.Module(child.orelse, []), way)
                continue
            if isinstance(child, ast.Import):
                for alias in child.names:
                    file.imports[alias.name].add(way)
            elif isinstance(child, ast.ImportFrom):
                base = "." * child.level + (child.module or "")
                for alias in child.names:
                    inner = f"{base}.{alias.name}"
                    if inner == "wheretune.__version__":
                        continue
                    file.imports[inner if inner in self.files or inner in HEAVY else base].add(way)
            elif isinstance(child, ast.Constant) and isinstance(child.value, str):
                named = re.fullmatch(r"(wheretune(?:\.\w+)+)(?::\w+)?", child.value)
                if named and named[1] in self.files and way != "types":
                    file.imports[named[1]].add("named")
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            self._read(file, child, "late" if inside and way == "now" else way)

    @cached_property
    def order(self) -> list[str]:
        return [room for rooms in self.bands.values() for room in rooms]

    @cached_property
    def band(self) -> dict[str, str]:
        return {room: band for band, rooms in self.bands.items() for room in rooms}

    @cached_property
    def rooms(self) -> dict[str, set[str]]:
        """The rooms that each room opens, at once or later; the public names and `python -m` are no rooms."""
        links: dict[str, set[str]] = {f.room: set() for f in self.files.values() if f.room not in ("", "__main__")}
        for file, other in self._ours():
            if file.runs(other) and file.room != other.room and other.room:
                links[file.room].add(other.room)
        return links

    def _ours(self) -> Iterator[tuple[File, File]]:
        for file in self.files.values():
            if file.room in ("", "__main__"):
                continue
            for other in file.imports:
                if other in self.files and other != file.name:
                    yield file, self.files[other]

    def _may(self, here: str, there: str) -> bool:
        """Whether a file of one room may open a file of another."""
        if here == there:
            return True
        if here not in self.band or there not in self.band:
            return False
        beside = len(self.picture[self.band[here]]) > 1  # bars: the rooms of this band stand side by side
        if beside and self.band[here] == self.band[there] and there not in FREE:
            return False
        return self.order.index(there) < self.order.index(here)

    # --- the rules; each says what breaks it -----------------------------------------------------

    def not_on_the_map(self) -> list[str]:
        return sorted(set(self.rooms) - set(self.order))

    def upwards(self) -> list[str]:
        """Names of types count as well; the catalog alone may name what stands above it."""
        wrong = []
        for file, other in self._ours():
            by_name = file.imports[other.name] == {"named"} and file.room == "catalog"
            if other.room and not (self._may(file.room, other.room) or by_name or file.promises(other)):
                wrong.append(f"{file.name} -> {other.name}")
        return sorted(wrong)

    def public_names(self) -> list[str]:
        """Nobody inside opens `wheretune` itself, a room's `__init__` opens nothing, imports are written in full."""
        wrong = [f"{file.name} -> {other.name}" for file, other in self._ours() if not other.room or file.package]
        wrong += [f"{f.name} -> {one}" for f in self.files.values() for one in f.imports if one.startswith(".")]
        return sorted(wrong)

    def circles(self) -> list[str]:
        """Files that open one another, at once or later."""
        opens: dict[str, list[str]] = {name: [] for name in self.files}
        for file, other in self._ours():
            if file.runs(other):
                opens[file.name].append(other.name)

        def reached(start: str) -> set[str]:
            seen, todo = set(), [start]
            while todo:
                for other in opens[todo.pop()]:
                    if other not in seen:
                        seen.add(other)
                        todo.append(other)
            return seen

        return sorted(name for name in opens if name in reached(name))

    def floors(self) -> int:
        """How many rooms stand on one another, at most."""
        found: dict[str, int] = {}

        def floor(room: str) -> int:
            if room not in found:
                found[room] = 0  # rooms in a circle end here; `circles` and `upwards` say so
                found[room] = 1 + max(map(floor, self.rooms.get(room, ())), default=0)
            return found[room]

        return max(map(floor, self.rooms), default=0)

    def empty_rows(self) -> list[str]:
        """Rows of the catalog that name nothing."""
        return sorted(f"{module}:{name}" for module, name in self._rows() if name not in self._names(module))

    def _rows(self) -> list[tuple[str, str]]:
        strings = [n.value for n in ast.walk(self.files["wheretune.catalog"].tree) if isinstance(n, ast.Constant)]
        found = [ROW.fullmatch(value) for value in strings if isinstance(value, str)]
        return [(row[1], row[2]) for row in found if row]

    def _names(self, module: str) -> set[str]:
        if module not in self.files:
            return set()
        names = set()
        for node in self.files[module].tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
        return names

    def heavy(self) -> list[str]:
        """Files that open torch and may not, or records that open what paints."""
        light = [*self.bands.get("ground", ()), *self.bands.get("faces", ()), *LIGHT]
        named = {module for module, _ in self._rows()}
        wrong = []
        for file in self.files.values():
            if (file.room in light or file.name in named) and file.name not in OPENS_TORCH:
                forbidden = HEAVY + (PAINT if file.room == "records" else ())
                wrong += [f"{file.name} opens {one}" for one in sorted(self._opened(file.name)) if _is(one, forbidden)]
        return sorted(wrong)

    def _opened(self, name: str) -> set[str]:
        """All that is imported when `name` is, also from others."""
        seen, todo = {name}, [name]
        while todo:
            here = todo.pop()
            parents = [".".join(here.split(".")[:deep]) for deep in range(2, here.count(".") + 1)]
            file = self.files.get(here)
            now = [other for other, ways in file.imports.items() if "now" in ways] if file else []
            for other in [*parents, *now]:
                if other not in seen and other != "wheretune":
                    seen.add(other)
                    todo.append(other)
        return seen

    def long(self) -> list[str]:
        return sorted(file.name for file in self.files.values() if file.lines > LINES)

    def tangled(self) -> list[str]:
        return sorted(name for name, function in self._functions() if complexity(function) > COMPLEXITY)

    def wide(self) -> list[str]:
        """Outside the command line, whose options are parameters."""
        return sorted(
            name
            for name, function in self._functions()
            if parameters(function) > PARAMETERS and not name.startswith("wheretune.cli.")
        )

    def _functions(self) -> Iterator[tuple[str, ast.FunctionDef]]:
        for file in self.files.values():
            for node in ast.walk(file.tree):
                if isinstance(node, ast.FunctionDef):
                    yield f"{file.name}.{node.name}", node


def _is(module: str, names: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in names)


def complexity(function: ast.FunctionDef) -> int:
    """McCabe's number: 1 and every branch, those of inner functions, conditions and comprehensions included."""
    count = 1
    branches = ast.If | ast.For | ast.While | ast.IfExp | ast.ExceptHandler | ast.Assert | ast.match_case
    for node in ast.walk(function):
        if isinstance(node, branches):
            count += 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
    return count


def parameters(function: ast.FunctionDef) -> int:
    """How many it takes, `self` left out."""
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))
