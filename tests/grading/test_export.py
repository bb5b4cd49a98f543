"""`kata export`: what students get holds nothing that is hidden, and what Gradescope gets grades there as here."""

import ast
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness import kata as katas
from harness.behaviour import Behaviour, Source
from harness.collecting import declared
from harness.commands import main
from harness.exporting import gradescope, starter
from harness.exporting.public import public_source

from . import wheelhouse

KATAS = sorted(katas.catalogue())
PATIENCE = 290  # seconds; a test that gets here has failed
pytestmark = pytest.mark.timeout(300)  # environments are made, and filled
PYTHON = Path(sys.base_prefix, "bin", "python3")  # of no environment


def plain(text):
    return " ".join(text.split())


def unpacked(data, folder):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(folder)
        for member in archive.infolist():
            (folder / member.filename).chmod(member.external_attr >> 16)
    return folder


@pytest.fixture(scope="module", params=KATAS)
def exported(request, tmp_path_factory):
    """A kata, and its starter repository with all that is packed in it unpacked beside it; nobody changes it."""
    place = tmp_path_factory.mktemp("exported")
    assert main(["export", request.param, "--to", str(place / "repository")]) == 0
    for number, wheel in enumerate(place.rglob("*.whl")):
        unpacked(wheel.read_bytes(), place / f"wheel-{number}")
    return katas.shipped(request.param), place


def test_nothing_hidden_is_in_it(exported):
    """Neither a name, nor a sentence, nor a hint: in no file, also not in those of the kit."""
    kata, folder = exported
    hidden = [each for each in declared(kata) if each.hidden]
    public = {plain(text) for each in declared(kata) if not each.hidden for text in each.hints}
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".whl"]
    texts = {path: plain(path.read_bytes().decode("utf-8", "replace")) for path in files}
    strings = " \n ".join(
        plain(node.value)
        for path in files
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )

    assert len(hidden) >= 12
    assert len(list(folder.glob("wheel-*"))) == 1
    assert not [path for path in files if path.suffix in {".pyc", ".zip"} or "reference" in path.parts]
    for each in hidden:
        for words in ({each.sentence} | set(each.hints)) - public:
            assert plain(words) not in strings
            assert not [path for path, text in texts.items() if plain(words) in text]
        named = re.compile(rf"\btest_{each.id}\b")
        assert not [path for path, text in texts.items() if named.search(text)]


def test_its_kit_asks_just_what_is_public(exported):
    kata, folder = exported
    (kit,) = folder.glob("wheel-*")
    program = (
        "import json; from harness import kata; from harness.collecting import declared;"
        f"print(json.dumps([[each.id, each.hidden, each.points] for each in declared(kata.shipped({kata.name!r}))]))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], env={"PYTHONPATH": str(kit)}, capture_output=True)

    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == [[each.id, False, each.points] for each in declared(kata) if not each.hidden]
    assert [path.name for path in (kit / "katas").iterdir()] == [kata.name]


def test_the_brief_and_the_skeleton_are_as_they_are_here(exported):
    kata, folder = exported
    copy = folder / "repository" / "katas" / kata.name

    given = {path.name for path in kata.folder.iterdir() if not path.name.startswith(".")}  # not what a build has made
    assert {path.name for path in copy.iterdir()} == given - {"__pycache__"}
    assert all(path.read_bytes() == (kata.folder / path.name).read_bytes() for path in copy.iterdir())
    assert (folder / "repository" / ".github" / "workflows" / "kata.yml").is_file()
    assert f"katas/{kata.name}/README.md" in (folder / "repository" / "README.md").read_text()


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return wheelhouse.fill(tmp_path_factory.mktemp("house") / "wheels", "backend-katas[grade]")


def run(folder, *words, status=0, **environment):
    done = subprocess.run(
        list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_it_runs_in_a_clean_environment(tmp_path, house):
    """As its README says: the skeleton is greeted, and the reference keeps all public promises."""
    kata = katas.shipped("sse")
    folder, clean = tmp_path / "repository", wheelhouse.environment(house)
    assert main(["export", "sse", "--to", str(folder)]) == 0
    run(folder, PYTHON, "-m", "venv", ".venv", **clean)
    run(folder, ".venv/bin/pip", "install", "-r", "requirements.txt", **clean)

    greeted = run(folder, ".venv/bin/pytest", status=1, **clean)
    for path in (katas.REFERENCES / "sse").glob("*.py"):
        shutil.copy(path, folder / "katas" / "sse")
    held = run(folder, ".venv/bin/pytest", **clean)

    public = [each for each in declared(kata) if not each.hidden]
    assert kata.start in greeted
    assert f"sse: {len(public)} of {len(public)} behaviours hold" in held


# the source


def behaviours(**hidden):
    return [
        Behaviour(name, name, 1, 1, Source(""), needs=("secret",) if name == "opens" else (), hidden=is_hidden)
        for name, is_hidden in hidden.items()
    ]


SOURCE = '''"""Doors."""

import json
import os

from harness.behaviour import behaviour

WIDE, NARROW = 2, 1
SECRET = "knock"


class Door:
    """A door."""

    def open(self):
        return self._turn()

    def _turn(self):
        return WIDE

    def knock(self):
        return json.dumps(SECRET)


# -- stage 1 --


@behaviour(stage=1, needs="secret")
def test_opens(door):
    """It opens."""
    assert door.open()


# What nobody knows.
@behaviour(stage=2, hidden=True)
def test_secret(door):
    """It is secret."""
    os.getpid()
    helped(door)


def helped(door):
    door.knock()


@pytest.fixture
def door():
    return Door()
'''


def test_what_only_hidden_behaviours_use_is_cut_out():
    shown = public_source(SOURCE, behaviours(opens=False, secret=True))

    for gone in (
        "json",
        "import os",
        "SECRET",
        "knock",
        "helped",
        "nobody knows",
        "test_secret",
        "It is secret",
        '"sec',
    ):
        assert gone not in shown
    for kept in ("WIDE, NARROW = 2, 1", "def _turn", "# -- stage 1 --", "needs=()", "def door", '"""Doors."""'):
        assert kept in shown
    assert "\n\n\n\n" not in shown


def test_with_nothing_hidden_all_stays():
    source = SOURCE.replace(', needs="secret"', "").replace(", hidden=True", "")

    assert public_source(source, behaviours(secret=False)) == source


def test_a_leak_is_noticed_in_wheels_too():
    secret = Behaviour("knocks", "Three knocks open the door.", 1, 1, Source(""), hidden=True, hints=("Knock thrice.",))
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("a.py", 'x = ("Three knocks "\n  "open the door.")')

    found = list(starter.leaks({"kit.whl": held.getvalue(), "b.md": b"Knock\nthrice.", "c.md": b"Knock."}, [secret]))

    assert found == ["kit.whl: a.py tells of `knocks`", "b.md tells of `knocks`"]


# gradescope


def test_gradescope_gives_the_reference_all_points_and_the_skeleton_none(tmp_path, house):
    """Set up and run as Gradescope does, below another folder than its own; a repository and a single file work."""
    kata = katas.shipped("sse")
    most = sum(each.points for each in declared(kata))
    root, clean = tmp_path / "autograder", wheelhouse.environment(house, AUTOGRADER=str(tmp_path / "autograder"))
    assert main(["export", "sse", "--gradescope", str(tmp_path / "sse.zip"), "--reveal", "none"]) == 0
    unpacked((tmp_path / "sse.zip").read_bytes(), root / "source")
    for script in gradescope.SCRIPTS:
        shutil.copy(root / "source" / script, root)
    run(root, "./setup.sh", **clean)

    def graded(*files):
        submission = root / "submission"
        shutil.rmtree(submission, ignore_errors=True)
        for source, place in files:
            (submission / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, submission / place)
        submission.mkdir(exist_ok=True)
        run(root, "./run_autograder", **clean)
        return json.loads((root / "results" / "results.json").read_text())

    solved = [(path, path.name) for path in (katas.REFERENCES / "sse").glob("*.py")]
    reference = graded(*solved)
    skeleton = graded(*((path, f"katas/sse/{path.name}") for path in kata.folder.glob("*.*")))
    nothing = graded()

    assert reference["score"] == most
    assert sum(each["max_score"] for each in reference["tests"]) == most
    assert len([each for each in reference["tests"] if "hidden" in each["tags"]]) == 1, "as --reveal=none has it"
    assert skeleton["score"] == 0
    assert nothing["score"] == 0
    assert "refused" in nothing["output"]
    assert (root / "source").stat().st_mode & 0o077 == 0, "no submission reads what is hidden"


# usage


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sse"], "say what to export: --to DIR"),
        (["sss", "--to", "new"], "did you mean `sse`?"),
        (["sse", "--to", "full"], "full is there already, and not empty; name another folder"),
        (["sse", "--to", "full/file"], "full/file is there already, and not empty"),
        (["sse", "--to", "full/file/new"], "can't be written"),
        (["sse", "--gradescope", "full/file"], "full/file is there already; remove it"),
        (["sse", "--gradescope", "missing/it.zip"], "can't be written (No such file or directory)"),
    ],
)
def test_bad_usage_is_one_sentence(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full", "file").write_text("mine")

    assert main(["export", *words]) == 2

    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert Path("full", "file").read_text() == "mine"


def test_a_skeleton_that_was_worked_on_is_not_given_away(kit, tmp_path):
    """Somebody who solves katas in the clone must not hand out the solution."""
    skeleton = kit.root / "katas/door/solution.py"
    toml = kit.root / "katas/door/kata.toml"
    honest, about = skeleton.read_text(), toml.read_text()
    digest = katas.digest(toml.parent)
    rest = re.sub(r"^skeleton = .*\n", "", about, flags=re.M)
    try:
        toml.write_text(f'skeleton = "{digest}"\n{rest}')
        skeleton.write_text("print('solved')")
        ended = kit.kata("export", "door", "--to", str(tmp_path / "new"))
    finally:
        skeleton.write_text(honest)
        toml.write_text(about)

    assert ended.status == 2
    assert "does not hold the skeleton as it came" in ended.err
    assert not (tmp_path / "new").exists()
