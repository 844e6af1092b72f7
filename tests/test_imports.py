"""Who imports whom: leaves know neither envs nor agents, and nothing goes in a circle."""

import ast
import graphlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import mtrl

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"mtrl": ROOT / "mtrl", "mtrl.envs": ROOT / "envs", "mtrl.agents": ROOT / "agents"}

# What runs whole experiments may import everything; every other module of `mtrl` is a leaf.
TOP_PACKAGES = (
    "mtrl.benchmarks",
    "mtrl.commands",
    "mtrl.compare",
    "mtrl.curricula",
    "mtrl.evaluation",
    "mtrl.incremental",
    "mtrl.meta.pearl",
    "mtrl.multitask",
    "mtrl.reproduce",
)
TOP_MODULES = {
    "mtrl.__main__",
    "mtrl.cli",
    "mtrl.curriculum_curves",
    "mtrl.meta.kinds",
    "mtrl.meta.recurrent.training",
    "mtrl.meta.reinforcement",
    "mtrl.meta.session",
    "mtrl.meta.supervised",
    "mtrl.meta.task_source",
    "mtrl.meta.watching",
}
# These are pure maths, and leaves although they live in a top package.
LEAF_MODULES = {
    "mtrl.evaluation",
    "mtrl.evaluation.continual",
    "mtrl.evaluation.continual_file",
    "mtrl.evaluation.minimax_deviation",
    "mtrl.evaluation.statistics",
}


def in_package(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layer(module: str) -> str:
    for package in ("mtrl.envs", "mtrl.agents"):
        if in_package(module, package):
            return package
    if module in LEAF_MODULES:
        return "leaf"
    top = module in TOP_MODULES or any(in_package(module, package) for package in TOP_PACKAGES)
    return "top" if top else "leaf"


ALLOWED = {
    "leaf": {"leaf"},
    "mtrl.envs": {"leaf", "mtrl.envs"},
    "mtrl.agents": {"leaf", "mtrl.envs", "mtrl.agents"},
    "top": {"leaf", "mtrl.envs", "mtrl.agents", "top"},
}


@cache
def sources() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        # os.walk does not enter linked folders, so that each file is found once.
        for place, _, names in os.walk(folder):
            for path in (Path(place, name) for name in names if name.endswith(".py")):
                parts = path.relative_to(folder).with_suffix("").parts
                found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported(tree: ast.AST, *, everywhere: bool) -> set[str]:
    """Return the modules of ours that are imported, at module level or `everywhere`."""
    names: set[str] = set()
    pending = list(ast.iter_child_nodes(tree))
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & sources().keys()
            whole = len(submodules) < len(node.names)
            names |= submodules | ({node.module} if whole else set())
        inside_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not is_type_checking(node) and (everywhere or not inside_function):
            pending += ast.iter_child_nodes(node)
    return names & sources().keys()


def graph(*, everywhere: bool) -> dict[str, set[str]]:
    return {
        module: imported(ast.parse(path.read_text()), everywhere=everywhere)
        for module, path in sources().items()
    }


def test_the_three_folders_are_found() -> None:
    assert {"mtrl.cli", "mtrl.envs.task", "mtrl.agents", "mtrl.meta.inner"} <= sources().keys()
    assert "mtrl.envs.task" in graph(everywhere=False)["mtrl.envs.family"]
    assert sources().keys() >= TOP_MODULES | LEAF_MODULES


def test_every_import_goes_down_even_inside_functions() -> None:
    upward = [
        f"{module} imports {other}"
        for module, others in graph(everywhere=True).items()
        for other in others
        if layer(other) not in ALLOWED[layer(module)]
    ]
    assert upward == []


def test_there_are_no_cycles() -> None:
    dependencies = graph(everywhere=False)
    order = list(graphlib.TopologicalSorter(dependencies).static_order())
    assert sorted(order) == sorted(dependencies)


def test_the_cycle_check_finds_a_cycle() -> None:
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nsys.stdout.write(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_loads_nothing_else() -> None:
    loaded = loaded_by("import mtrl")
    assert {name for name in loaded if name.startswith("mtrl")} == {"mtrl"}
    assert not loaded & {"envs", "agents", "torch"}


def test_help_needs_no_heavy_library() -> None:
    loaded = loaded_by("import mtrl.cli\nassert mtrl.cli._help()")
    assert not loaded & {"torch", "numpy", "gymnasium", "tensorboard", "stable_baselines3", "tyro"}


def test_training_starts_without_what_it_may_not_need() -> None:
    loaded = loaded_by("import mtrl.meta.kinds")
    assert not loaded & {"matplotlib", "stable_baselines3", "tensorboard"}


def test_public_surface() -> None:
    assert mtrl.__all__ == ["__version__"]
    public = {name for name in vars(mtrl) if not name.startswith("_")}
    assert all(f"mtrl.{name}" in sources() for name in public), public


@pytest.mark.parametrize("module", sorted(sources()))
def test_what_a_module_exports_is_there(module: str) -> None:
    tree = ast.parse(sources()[module].read_text())
    exported = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    if not exported:
        return
    defined = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    defined |= {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert set(exported[0]) <= defined
    assert len(set(exported[0])) == len(exported[0])
