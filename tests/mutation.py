"""Mutation test of the layers and the propagation: which small faults do the tests notice?

    python tests/mutation.py cover FOLDER            # once: which test runs which line, how long
    python tests/mutation.py run FOLDER [--count N] [--seed N] [--cap SECONDS] [--again NUMBER ...]
    python tests/mutation.py report FOLDER

needs the extra `dev`. `cosmic-ray` writes the mutants, one operator at one place each: arithmetic
and comparison operators, signs, `and`/`or`/`not`, true and false, `break`/`continue`, numbers by
+1 and -1, decorators and exceptions removed, loops of no turn. Left out: strings, messages (whole
`raise` statements), annotations, and resolution constants (numbers named in capitals at the top of
a module, nodes of a quadrature, numbers with an exponent, parameters in `RESOLUTION`). A shuffle of
all mutants with `--seed` is the order in which they are tried, `--count` how many.

A mutant is tried with the doctests of its module and those fast tests of tests/layers,
tests/propagation and tests/faults that run its statement, shortest first, until one fails; a test
that takes four times its time and ten seconds more fails. `--cap` bounds the time of the tests of
one mutant. Each runs in a fork of one process, to which the mutant is the source of its module: no
file changes. What is done stands in FOLDER and is not done again, except `--again`.
"""

import argparse
import ast
import gc
import inspect
import json
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from functools import _lru_cache_wrapper
from importlib import import_module
from importlib.machinery import PathFinder, SourceFileLoader
from itertools import accumulate, islice, pairwise
from pathlib import Path
from types import CodeType, FunctionType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sigprop/layers", "sigprop/propagation")
TESTS = ("tests/layers", "tests/propagation", "tests/faults")
APART = {
    f"tests/faults/test_faults_{name}.py"
    for name in ("audit", "ci", "design", "storage", "training")
}
FOLLOWED = 40
HEAVY = ("numpy", "scipy", "sympy", "mpmath", "xarray", "pandas", "hypothesis", "matplotlib")
QUADRATURES = {"hermegauss", "hermgauss", "leggauss", "laggauss", "linspace"}
RESOLUTION = {
    *("nodes", "count", "counts", "steps", "step", "terms", "points", "tolerance", "tol", "rtol"),
    *("atol", "xtol", "accuracy", "order", "iterations", "maxiter", "draws", "chunk", "maxsize"),
    *("resolution", "samples", "limit", "degree"),
}
SWAPS = {
    **{"Add": "Sub", "Sub": "Add", "Mul": "Div", "Div": "Mul", "FloorDiv": "Mul"},
    **{"Mod": "FloorDiv", "Pow": "Mul", "BitOr": "BitAnd", "BitAnd": "BitOr"},
}
ORDERS = (
    "Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is"
)
OPERATORS = [
    *(f"ReplaceBinaryOperator_{a}_{b}" for a, b in SWAPS.items()),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ORDERS.split()),
    *(f"ReplaceUnaryOperator_Delete_{sign}" for sign in ("USub", "Not", "Invert")),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "AddNot", "NumberReplacer"),
    *("RemoveDecorator", "ExceptionReplacer", "ZeroIterationForLoop"),
]


# --- mutants


def span(node):
    """First and last position of a node of `ast`, (line, column)."""
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def annotations(node):
    """Annotations that a statement holds."""
    if isinstance(node, ast.AnnAssign):
        yield node.annotation
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from (n.annotation for n in ast.walk(node.args) if isinstance(n, ast.arg))
        yield node.returns


def resolution_of_call(node):
    """What a call or a signature says about resolution: nodes of a quadrature, parameters."""
    if isinstance(node, ast.Call):
        if getattr(node.func, "attr", getattr(node.func, "id", "")) in QUADRATURES:
            yield from node.args
        yield from (word.value for word in node.keywords if word.arg in RESOLUTION)
    elif isinstance(node, ast.arguments):
        given = node.args[len(node.args) - len(node.defaults) :]
        pairs = [*zip(given, node.defaults, strict=True)]
        pairs += zip(node.kwonlyargs, node.kw_defaults, strict=True)
        yield from (value for name, value in pairs if name.arg in RESOLUTION)


def constants(tree):
    """Values named in capitals at the top of a module that are made of numbers alone."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            names = [n.id for n in ast.walk(target) if isinstance(n, ast.Name)]
            calls = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
            own = any(isinstance(c, ast.Name) and c.id[0].isupper() for c in calls)
            if all(name.isupper() for name in names) and not own:
                yield node


def left_out(tree):
    """Spans in which nothing is mutated."""
    nodes = [*constants(tree)]
    for node in ast.walk(tree):
        nodes += [*annotations(node), *resolution_of_call(node)]
        nodes += [node] if isinstance(node, ast.Raise | ast.JoinedStr) else []
        text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        nodes += [node] if text else []
    return [span(node) for node in nodes if node is not None]


def statement(tree, line):
    """Lines of the smallest statement around a line (its head alone, where it has a body)."""
    best = (line, line)
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and node.lineno <= line <= node.end_lineno:
            body = [*getattr(node, "body", []), *getattr(node, "handlers", [])]
            last = body[0].lineno - 1 if body else node.end_lineno
            best = (node.lineno, max(node.lineno, last)) if line <= last else best
    return best


def at_import(tree, line):
    """Whether a line runs when its module is imported."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.Lambda)]
    bodies = [n.body[0] if isinstance(n, ast.FunctionDef) else n.body for n in functions]
    last = [n.end_lineno for n in functions]
    return not any(b.lineno <= line <= end for b, end in zip(bodies, last, strict=True))


def small(word):
    """Whether a number is written with an exponent, as tolerances are."""
    return "e" in word.lower() and not word.lower().startswith("0x")


def mutants_of(path):
    """All mutants of a file, (file, operator, occurrence, line, column)."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator

    source = path.read_text()
    tree = ast.parse(source)
    out = left_out(tree)
    nodes = [*ast_nodes(get_ast(source))]
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        places = [(node, at) for node in nodes for at, _ in operator.mutation_positions(node)]
        for occurrence, (node, at) in enumerate(places):
            number = name == "NumberReplacer" and small(node.value)
            if not number and not any(first <= at < last for first, last in out):
                yield str(path.relative_to(ROOT)), name, occurrence, *at


def mutated(mutant):
    """Source of a file with a mutant in it; None where it does not differ or compile."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    file, name, occurrence = mutant[:3]
    source = (ROOT / file).read_text()
    code = mutate_code(source, get_operator(f"core/{name}")(), occurrence)
    try:
        same = code is None or ast.dump(ast.parse(code)) == ast.dump(ast.parse(source))
    except SyntaxError:
        return None
    return None if same else code


def sample(seed, count):
    """The mutants that are tried, in their order."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    pool = [mutant for path in files for mutant in mutants_of(path)]
    print(len(pool), "mutants", flush=True)
    random.Random(seed).shuffle(pool)
    return [*islice(filter(mutated, pool), count)]


# --- processes


def fork(work):
    """Result of `work()` in a forked process; (signal, cause) of one that was ended."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(read)
        code = 1
        try:
            with os.fdopen(write, "w") as out:
                json.dump(work(), out)
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    status = os.waitpid(pid, 0)[1]
    return json.loads(text) if status == 0 else {"ended": os.waitstatus_to_exitcode(status)}


def quiet(words, plugin):
    """Exit code of pytest in this process, without a word of it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    options = ["-q", "-n", "0", "--tb=line", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what forks share
    return int(pytest.main([*options, *words], plugins=[plugin]))


class WithoutDeadline:
    """Takes away the time that hypothesis gives an example: a busy machine is no fault."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self):
        import hypothesis

        hypothesis.settings.register_profile("unhurried", derandomize=True, deadline=None)
        hypothesis.settings.load_profile("unhurried")


# --- which test runs which line


class Cover(WithoutDeadline):
    """Runs every test in its own fork and notes the lines of the packages that it runs."""

    def __init__(self, out):
        self.out = out

    def pytest_runtest_protocol(self, item, nextitem):
        found = fork(lambda: self.noted(item))
        with self.out.open("a") as file:
            file.write(json.dumps({"test": item.nodeid} | found) + "\n")
        return True

    def noted(self, item):
        from _pytest.runner import runtestprotocol

        start = time.process_time()
        reports, lines = traced(lambda: runtestprotocol(item, log=False, nextitem=None))
        return {
            "passed": [report.outcome for report in reports] == ["passed"] * 3,
            "seconds": time.process_time() - start,
            "lines": lines,
            "modules": [name for name in sys.modules if name.split(".")[0] in HEAVY],
        }


def traced(work):
    """Result of `work()` and the lines of the packages that it runs.

    A function is followed line by line for its first `FOLLOWED` calls.
    """
    seen, calls = {}, Counter()
    folders = tuple(f"{ROOT / package}/" for package in PACKAGES)

    def by_line(frame, event, _):
        seen[frame.f_code.co_filename].add(frame.f_lineno)
        return by_line

    def by_call(frame, event, _):
        name = frame.f_code.co_filename
        if calls[frame.f_code] >= FOLLOWED or not name.startswith(folders):
            return None
        calls[frame.f_code] += 1
        seen.setdefault(name, set()).add(frame.f_lineno)
        return by_line

    sys.settrace(by_call)
    result = work()
    sys.settrace(None)
    return result, {str(Path(k).relative_to(ROOT)): sorted(v) for k, v in seen.items()}


def cover(folder):
    """Lines and time of every test, file by file; files that are done are not done again."""
    done, out = folder / "done.txt", folder / "cover.jsonl"
    known = done.read_text().split() if done.exists() else []
    files = [p for t in (*TESTS, *PACKAGES) for p in sorted((ROOT / t).rglob("*.py"))]
    for path in files:
        name = str(path.relative_to(ROOT))
        if name in known or name in APART or name.endswith("__init__.py"):
            continue
        code = fork(lambda name=name: quiet([name], Cover(out)))
        print(name, code, flush=True)
        with done.open("a") as file:
            file.write(name + "\n")


def covered(folder):
    """Tests that pass, {id: what was noted}."""
    notes = map(json.loads, (folder / "cover.jsonl").read_text().splitlines())
    return {note["test"]: note for note in notes if note.get("passed")}


def tests_of(mutant, tests):
    """Ids of the tests that run the statement of a mutant, shortest first."""
    file, line = mutant[0], mutant[3]
    tree = ast.parse((ROOT / file).read_text())
    first, last = statement(tree, line)
    wanted = range(1, 10**6) if at_import(tree, line) else range(first, last + 1)
    own = [t for t in tests if t.startswith("tests/") or t.split("::")[0] == file]
    found = [t for t in own if any(n in wanted for n in tests[t]["lines"].get(file, ()))]
    return sorted(found, key=lambda test: tests[test]["seconds"])


# --- mutants against tests


class Mutated(SourceFileLoader):
    """Loads one module from another source than its file's."""

    def __init__(self, name, path, source):
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname):
        return compile(self.source, self.path, "exec", dont_inherit=True)


class Finder:
    """Finds the module that is mutated."""

    def __init__(self, file, source):
        self.name, self.source = file.removesuffix(".py").replace("/", "."), source

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        spec = PathFinder.find_spec(name, path)
        spec.loader = Mutated(name, spec.origin, self.source)
        return spec


def within(chosen, tests, cap):
    """The first of the tests, as many as take less than `cap` seconds together."""
    total = accumulate(tests[test]["seconds"] for test in chosen)
    return [
        test
        for n, (test, time) in enumerate(zip(chosen, total, strict=True))
        if time < cap or not n
    ]


class Loop(WithoutDeadline):
    """Hands the collected tests to `work`, in place of running them."""

    def __init__(self, work, finder=None):
        self.work, self.finder = work, finder

    def pytest_sessionstart(self):
        if self.finder:  # before pytest's own, which loads modules whose doctests are asked for
            sys.meta_path.insert(0, self.finder)

    def pytest_runtestloop(self, session):
        if not session.testsfailed:  # of those that cannot be collected
            self.work({item.nodeid: item for item in session.items})
        return True


def attempt(items, tests, note):
    """Whether a test fails, of some in their order, each with its limit of time."""
    from _pytest.runner import runtestprotocol

    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    for item, following in pairwise([*items, None]):
        limit = 10 + 4 * tests[item.nodeid]["seconds"]
        signal.setitimer(signal.ITIMER_PROF, limit)
        signal.setitimer(signal.ITIMER_REAL, 20 * limit)  # of what other processes do for a test
        note.write_text(json.dumps([item.nodeid, "took too long"]))
        for report in runtestprotocol(item, log=False, nextitem=following):
            if report.failed:
                crash = getattr(report.longrepr, "reprcrash", None)
                words = crash.message if crash else str(report.longrepr)
                note.write_text(json.dumps([item.nodeid, words[:300]]))
                return {"killed": True}
    return {"killed": False}


def reloaded(mutant, chosen, tests, note):
    """Verdict of the chosen tests after all modules are imported, one of them mutated."""
    found, finder = {"killed": True}, Finder(mutant[0], mutated(mutant))
    note.write_text(json.dumps(["", "cannot be imported"]))

    def work(items):
        nonlocal found
        found = attempt([items[test] for test in chosen if test in items], tests, note)

    quiet(sorted({test.split("::")[0] for test in chosen}), Loop(work, finder))
    return found


# --- mutants in functions that are imported already


def units(code):
    """Code of functions of a module or class that stand in no other function."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from [inner] if inner.co_flags & inspect.CO_OPTIMIZED else units(inner)


def content(code):
    """What a code object does, without its lines."""
    consts = tuple(content(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts)
    return code.co_code, consts, code.co_names, code.co_varnames, code.co_exceptiontable


def shell(code):
    """What a module or class does itself, without the functions in it."""
    if code.co_flags & inspect.CO_OPTIMIZED:
        return code.co_name
    consts = tuple(shell(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts)
    return code.co_code, consts, code.co_names


def replacements(mutant, imported):
    """New code of functions, (function, code); None if a mutant changes what import does."""
    file, line = mutant[0], mutant[3]
    source = (ROOT / file).read_text()
    first, last = statement(ast.parse(source), line)
    if not set(range(first, last + 1)).isdisjoint(imported.get(file, ())):
        return None
    old, new = (compile(text, str(ROOT / file), "exec") for text in (source, mutated(mutant)))
    if shell(old) != shell(new):
        return None
    changed = [
        (a.co_qualname, a.co_firstlineno, b)
        for a, b in zip(units(old), units(new), strict=True)
        if content(a) != content(b)
    ]
    live = [f for f in gc.get_objects() if type(f) is FunctionType]
    live = [f for f in live if f.__code__.co_filename == str(ROOT / file)]
    found = [
        (function, code)
        for name, start, code in changed
        for function in live
        if (function.__code__.co_qualname, function.__code__.co_firstlineno) == (name, start)
    ]
    return found if len(found) == len(changed) else None


def in_place(found, items, tests, note):
    """Verdict of tests on functions with new code."""
    for function, code in found:
        function.__code__ = code
    for one in gc.get_objects():
        if isinstance(one, _lru_cache_wrapper) and str(one.__module__).startswith("sigprop"):
            one.cache_clear()
    return attempt(items, tests, note)


def import_lines():
    """Lines of the packages that run when their modules are imported."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    names = [str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in files]
    return fork(lambda: traced(lambda: [import_module(name) for name in names])[1])


def verdict(mutant, tests, folder, cap, work):
    """What became of a mutant: `work` tries tests, and is not asked where there are none."""
    every, note = tests_of(mutant, tests), folder / "note.json"
    chosen, start = within(every, tests, cap), time.time()
    result = {"tests": len(every), "tried": len(chosen), "killed": False}
    note.unlink(missing_ok=True)
    if chosen:
        result |= fork(lambda: work(chosen, note))
        result["killed"] = result["killed"] or result.get("ended", 0) < 0
        if note.exists() and (result["killed"] or "ended" in result):
            result["by"] = json.loads(note.read_text())
    return result | {"seconds": round(time.time() - start, 1)}


def warm(tests):
    """Import what all forks share: everything but this repository."""
    for name in sorted({name for note in tests.values() for name in note["modules"]}):
        try:
            import_module(name)
        except Exception:  # what the test itself then fails on, or skips: an extra that is missing
            continue


def run(folder, count, seed, cap, again):
    """Try the first `count` mutants of the sample that have not been tried.

    Those in functions get the code of the mutant in forks of one process that has imported all and
    collected all tests; those that change what import does are imported in a fork each.
    """
    tests, out = covered(folder), folder / "mutants.jsonl"
    notes = out.read_text().splitlines() if out.exists() else []
    known = {tuple(note["mutant"]) for note in map(json.loads, notes)}
    rows = [
        (number, mutant)
        for number, mutant in enumerate(sample(seed, count))
        if (number in again if again else mutant not in known)
    ]
    warm(tests)
    imported, left = import_lines(), folder / "left.json"

    def put(number, mutant, work):
        result = {"number": number, "mutant": mutant} | verdict(mutant, tests, folder, cap, work)
        with out.open("a") as file:
            file.write(json.dumps(result) + "\n")

    def each(items):
        rest = []
        for number, mutant in rows:
            if (new := replacements(mutant, imported)) is None:
                rest.append(number)
                continue

            def work(chosen, note, new=new):
                return in_place(new, [items[t] for t in chosen if t in items], tests, note)

            put(number, mutant, work)
        left.write_text(json.dumps(rest))

    left.unlink(missing_ok=True)
    fork(lambda: quiet(sorted({test.split("::")[0] for test in tests}), Loop(each)))
    for number, mutant in rows:
        if number in json.loads(left.read_text()):
            put(number, mutant, lambda chosen, note, m=mutant: reloaded(m, chosen, tests, note))


def difference(mutant):
    """What a mutant changes, by line."""
    import difflib

    before = (ROOT / mutant[0]).read_text().splitlines()
    lines = difflib.unified_diff(before, mutated(mutant).splitlines(), lineterm="", n=0)
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def report(folder):
    """Print how many mutants were killed, and the survivors."""
    notes = map(json.loads, (folder / "mutants.jsonl").read_text().splitlines())
    last = {note["number"]: note for note in notes}
    alive = {n: note for n, note in sorted(last.items()) if not note["killed"]}
    for number, note in alive.items():
        print(number, *note["mutant"], f"({note['tried']} of {note['tests']} tests)")
        print(*difference(tuple(note["mutant"])), sep="\n")
    print(f"{len(last)} mutants, {len(alive)} survive: {len(alive) / max(len(last), 1):.1%}")


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("cover", "run", "report"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=16)
    parser.add_argument("--cap", type=float, default=60.0)
    parser.add_argument("--again", type=int, nargs="*", default=[])
    given = parser.parse_args(argv)
    os.chdir(ROOT)
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if given.what == "run":
        run(folder, given.count, given.seed, given.cap, given.again)
    else:
        {"cover": cover, "report": report}[given.what](folder)


if __name__ == "__main__":
    main(sys.argv[1:])
