"""Which settings does code read? A small inference of types over the syntax tree: from annotated parameters and class
attributes through assignments to `options.name`. An attribute of the same name on anything else does not count."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel

Fields = dict[str, dict[str, str | None]]
"""Name of a class -> attribute -> name of its class, None where it is none that matters."""


def named(annotation: ast.expr | None) -> str | None:
    """The class that an annotation names, of `X | None` X."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.BinOp):
        return named(annotation.left)
    if isinstance(annotation, ast.Attribute):
        return annotation.attr
    return annotation.id if isinstance(annotation, ast.Name) else None


class Reading:
    """Reads the modules under `folders`. models: those whose fields count. reads: (model's name, field) that code reads."""

    def __init__(self, folders: Iterable[Path], models: Iterable[type[BaseModel]]) -> None:
        self.models = {model.__name__: model for model in models}
        self.reads: set[tuple[str, str]] = set()
        self.attributes: Fields = {}
        self.bases: dict[str, list[str]] = {}
        self.returns: dict[str, str | None] = {}
        files = sorted(
            file
            for folder in folders
            for file in folder.rglob("*.py")
            if file.name != "options.py" and not file.name.startswith("recipe")
        )
        trees = [ast.parse(file.read_text()) for file in files]
        for tree in trees:
            self._declared(tree)
        for _ in range(3):  # what one class keeps of another is known a round later
            for tree in trees:
                self._block(tree.body, {}, None)

    def read(self, model: type[BaseModel], field: str) -> bool:
        """Whether some code reads this field of this model, through its own name or a base's."""
        return any((base.__name__, field) in self.reads for base in model.__mro__)

    def _declared(self, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                self.bases[node.name] = [name for base in node.bases if (name := named(base))]
                own = self.attributes.setdefault(node.name, {})
                for part in node.body:
                    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                        own[part.target.id] = named(part.annotation)
                    elif isinstance(part, ast.FunctionDef) and part.returns is not None:
                        own.setdefault(part.name, named(part.returns))
            elif isinstance(node, ast.FunctionDef):
                self.returns[node.name] = named(node.returns)

    def _attribute(self, owner: str, name: str) -> str | None:
        """The class of an attribute."""
        if owner in self.models:
            field = self.models[owner].model_fields.get(name)
            kinds = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
            return next((k.__name__ for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        found = self.attributes.get(owner, {}).get(name)
        return found or next((f for base in self.bases.get(owner, []) if (f := self._attribute(base, name))), None)

    def _type(self, node: ast.expr, known: dict[str, str | None]) -> str | None:
        """The class of an expression; notes what it reads."""
        if isinstance(node, ast.Name):
            return known.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._type(node.value, known)
            if owner is None:
                return None
            if owner in self.models and isinstance(node.ctx, ast.Load):
                self.reads.add((owner, node.attr))
            return self._attribute(owner, node.attr)
        types = [self._type(part, known) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
        if isinstance(node, ast.Call):
            return self._called(node, known)
        if isinstance(node, ast.IfExp | ast.BoolOp | ast.NamedExpr):
            found = next((t for t in types if t), None)
            if isinstance(node, ast.NamedExpr):
                known[node.target.id] = self._type(node.value, known)
            return found
        for inner in ast.walk(node):
            if isinstance(inner, ast.comprehension):
                self._type(inner.iter, known)
                for test in inner.ifs:
                    self._type(test, known)
        return None

    def _called(self, node: ast.Call, known: dict[str, str | None]) -> str | None:
        for word in node.keywords:
            self._type(word.value, known)
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name == "getattr" and isinstance(node.args[1], ast.Constant):
            owner = self._type(node.args[0], known)
            if owner in self.models:
                self.reads.add((str(owner), str(node.args[1].value)))
        return name if name in self.attributes else self.returns.get(str(name))

    def _block(self, body: list[ast.stmt], known: dict[str, str | None], owner: str | None) -> None:
        """Statements in order. known: names and their classes. owner: the class whose body or method this is."""
        for node in body:
            if isinstance(node, ast.ClassDef):
                self._block(node.body, {}, node.name)
            elif isinstance(node, ast.FunctionDef):
                every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                inside = {**known, **{a.arg: named(a.annotation) for a in every}}
                if every and every[0].arg == "self" and owner is not None:
                    inside["self"] = owner
                self._block(node.body, inside, None)
            else:
                self._statement(node, known)

    def _statement(self, node: ast.stmt, known: dict[str, str | None]) -> None:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            declared = named(node.annotation) if isinstance(node, ast.AnnAssign) else None
            for target, value in _pairs(targets[0], node.value):
                self._bind(target, declared or self._type(value, known), known)
        for part in _expressions(node):
            self._type(part, known)
        for name in ("body", "orelse", "finalbody"):
            self._block(getattr(node, name, []), known, None)
        for handler in getattr(node, "handlers", []):
            self._block(handler.body, known, None)

    def _bind(self, target: ast.expr, kind: str | None, known: dict[str, str | None]) -> None:
        if isinstance(target, ast.Name):
            known[target.id] = kind
        elif isinstance(target, ast.Attribute) and (owner := self._type(target.value, known)) in self.attributes:
            self.attributes[str(owner)][target.attr] = kind or self.attributes[str(owner)].get(target.attr)


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        yield from zip(target.elts, value.elts, strict=False)
    else:
        yield target, value


def _expressions(node: ast.stmt) -> Iterator[ast.expr]:
    """The expressions of a statement, without those of the statements inside."""
    for part in ast.iter_child_nodes(node):
        if isinstance(part, ast.expr):
            yield part
        elif isinstance(part, ast.withitem):
            yield part.context_expr
