"""Attacks on grading itself: each is carried out on a classroom, and says "" when it was held, or what it achieved.

The numbers are those of the list of attacks. Attack 42 (archives) and 43 (metadata) are here as a whole; what is said
of each archive is in `test_collecting`.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

from . import archives
from .classroom import Classroom

Attack = Callable[[Classroom], str]
FORGED = {"schema": "backend-katas/result/v1", "status": "graded", "score": 3, "signature": {"algorithm": "Ed25519"}}


def plants_a_result(classroom: Classroom) -> str:
    """7: writes results where it is, and at the place where the grader will write its own."""
    place = str(classroom.out / "results" / "eve.json")
    forged = json.dumps(FORGED | {"behaviours": [{"verdict": "holds"}] * 2})
    classroom.hand_in(
        "eve",
        f"""
import os
for path in ("results.json", "junit.xml", os.path.join(os.environ["HOME"], "results.json"), {place!r}):
    try:
        with open(path, "w") as file:
            file.write({forged!r})
    except OSError:
        pass
""",
    )
    ended = classroom.grade()
    result = classroom.result("eve")
    if result["score"]:
        return f"it earned {result['score']} points"
    if ended.status == 0 and result["status"] != "graded":
        return "nobody was told"
    return _unbelievable(classroom)


def links_the_result(classroom: Classroom) -> str:
    """8: a symbolic link to somebody else's file stands where its result will be written."""
    victim = classroom.folder / "precious"
    victim.write_text("precious")
    (classroom.out / "results").mkdir(parents=True, mode=0o700)
    classroom.out.chmod(0o700)
    (classroom.out / "results" / "eve.json").symlink_to(victim)
    classroom.hand_in("eve")
    ended = classroom.grade()
    if victim.read_text() != "precious":
        return "the file that it led to was written"
    result = classroom.result("eve")
    if (ended.status, result["status"], result["score"]) != (1, "tampered", None):
        return f"it was {result['status']}, with {result['score']} points and exit status {ended.status}"
    if not any(path.is_symlink() for path in (classroom.out / "results").glob("foreign-*")):
        return "the evidence is gone"
    return _unbelievable(classroom)


def closes_the_results(classroom: Classroom) -> str:
    """9: makes the folder of results read-only before anything is written to it."""
    place = str(classroom.out / "results")
    mischief = f"import os\ntry:\n    os.chmod({place!r}, 0o500)\nexcept OSError:\n    pass"
    classroom.hand_in_with("eve", mischief)
    classroom.hand_in("zoe")
    classroom.grade()
    for name in ("eve", "zoe"):
        if not (classroom.out / "results" / f"{name}.json").exists():
            return f"{name} has no result"
    return _unbelievable(classroom)


def rewrites_the_result(classroom: Classroom) -> str:
    """10: a daemon, of another session and with an empty environment, waits for its result and rewrites it."""
    place = classroom.out / "results" / "eve.json"
    traces = classroom.folder / "traces"
    daemon = f"""
import os, time
open({str(traces)!r}, "a").write(f"{{os.getpid()}}\\n")
while not os.path.exists({str(place)!r}):
    time.sleep(0.001)
time.sleep(0.05)
text = open({str(place)!r}).read().replace('"earned": 0', '"earned": 9')
open({str(place)!r}, "w").write(text)
"""
    mischief = f"""
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-c", {daemon!r}], {{}})
    os._exit(0)
os.wait()
"""
    classroom.hand_in_with("eve", mischief)
    classroom.hand_in("zoe")
    classroom.grade("-j", "1")
    pids = traces.read_text().split() if traces.exists() else []
    living = [pid for pid in pids if os.path.exists(f"/proc/{pid}") and b"traces" in _command(pid)]
    return f"daemons {living} are alive" if living else _unbelievable(classroom)


def replays_what_it_was_asked(classroom: Classroom) -> str:
    """18: knows the answers to all that was asked in a run that it has seen, and nothing else."""
    classroom.hand_in("eve", _replays(seed=1))
    classroom.grade("--seed", "1")
    if classroom.result("eve")["score"] != classroom.result("eve")["max_score"]:
        return "it does not know what it was asked: this attack is none"
    classroom.out = classroom.folder / "in earnest"
    classroom.grade()
    score = classroom.result("eve")["score"]
    return f"it earned {score} points" if score else _unbelievable(classroom)


GOSSIP = """
import os, socketserver

seen = []

class Gossip(socketserver.StreamRequestHandler):
    def handle(self):
        for number, line in enumerate(self.rfile):
            name = line.split()[-1].decode()
            again = name in seen
            seen.append(name)
            print("asked for", seen, flush=True)
            self.wfile.write(f"WELCOME {seen if again else name}\\n".encode())
            if again:
                raise RuntimeError(f"asked for {seen}")

socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer((os.environ["HOST"], int(os.environ["PORT"])), Gossip).serve_forever()
"""
GREETS_AGAIN = '''

@behaviour(stage=2, source=Source("README G1, the greeting"), needs="greets_by_name")
def test_greets_again(visitor: Visitor) -> None:
    """Who comes again is welcomed again."""
    for _ in range(2):
        visitor.say(f"HELLO {visitor.name}\\n")
        assert visitor.hear() == f"WELCOME {visitor.name}"
'''
FOR_STUDENTS = ("html", "gradescope", "classroom50", "exercism", "prairielearn", "check50")


def tells_what_it_was_asked(classroom: Classroom) -> str:
    """21: remembers what hidden behaviours ask, and tells it in a public one: in answers, output and a traceback."""
    classroom.hand_in("eve", GOSSIP)
    with classroom.changed('needs="greets_by_name")', 'needs="greets_by_name", hidden=True)', GREETS_AGAIN):
        classroom.grade("--seed", "1")
    verdicts = [classroom.verdicts("eve")[name] for name in ("greets_by_name", "lines_in_one_segment", "greets_again")]
    if verdicts != ["holds", "holds", "broken"]:
        return f"it is seen through, and so this attack is none: {verdicts}"
    result = classroom.out / "results" / "eve.json"
    asked = [f"{_name(1, 'lines_in_one_segment')}{number}" for number in range(3)]
    for format in FOR_STUDENTS:
        told = classroom.kit.kata("report", str(result), "--format", format, "--reveal", "sentences")
        if told.status:
            return f"{format} can't be written: {told.err}"
        if any(name in told.out for name in asked):
            return f"students read of it by {format}"
    page = (classroom.out / "students" / "eve.html").read_text(encoding="utf-8")
    if _name(1, "greets_again") not in page:
        return "students read nothing at all, and so this attack is none"
    return "students read of it on their page" if any(name in page for name in asked) else ""


def is_right_now_and_then(classroom: Classroom) -> str:
    """38: keeps a promise in one start of twenty, and is handed in until it is lucky."""
    classroom.hand_in(
        "eve",
        """
import os, random, socketserver

lucky = random.random() < 0.05

class Greeter(socketserver.StreamRequestHandler):
    def handle(self):
        for number, line in enumerate(self.rfile):
            self.wfile.write((b"WELCOME " if lucky or not number else b"BEGONE ") + line.split()[-1] + b"\\n")

socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer((os.environ["HOST"], int(os.environ["PORT"])), Greeter).serve_forever()
""",
    )
    with classroom.changed("stage=2", "stage=3"):
        classroom.grade("--repeat", "5")
    verdicts = classroom.verdicts("eve")
    if verdicts["greets_by_name"] != "holds":
        return f"it keeps nothing, and so this attack is none: {verdicts}"
    return "" if verdicts["lines_in_one_segment"] == "broken" else "it was lucky five times"


def hands_in_until_it_knows(classroom: Classroom) -> str:
    """22: learns from each attempt's result what was asked, and hands in the answers to just that."""
    seeds: list[int] = []
    classroom.hand_in("eve", _replays(seed=0))
    for attempt in range(3):
        classroom.out = classroom.folder / f"attempt {attempt}"
        classroom.grade()
        if score := classroom.result("eve")["score"]:
            return f"it earned {score} points at attempt {attempt}"
        seeds.append(classroom.result("eve")["seed"])
        (classroom.submissions / "eve" / "solution.py").write_text(_replays(seeds[-1]))
    return "" if len(set(seeds)) == len(seeds) else f"the seeds were {seeds}"


def _name(seed: int, behaviour: str) -> str:
    """Who visits, in a run with that seed."""
    return "".join(random.Random(f"{seed} test_{behaviour}").choices("abcdefghijklmnopqrstuvwxyz", k=8))


def _replays(seed: int) -> str:
    """A program that knows the answers to what a run with that seed asks of the kata `door`."""
    one, three = _name(seed, "greets_by_name"), _name(seed, "lines_in_one_segment")
    known = [one, *(f"{three}{number}" for number in range(3))]
    return f"""
import os, socketserver

class Replay(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            if line.split()[-1].decode() in {known}:
                self.wfile.write(b"WELCOME " + line.split()[-1] + b"\\n")

socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer((os.environ["HOST"], int(os.environ["PORT"])), Replay).serve_forever()
"""


def brings_its_own_kit(classroom: Classroom) -> str:
    """40: hands in a kit whose behaviours give points away, a pytest configuration, plugins, and other metadata."""
    gift = "import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_pyfunc_call(pyfuncitem):\n    return True\n"
    classroom.hand_in(
        "eve",
        "raise SystemExit(0)",
        **{
            "conftest.py": gift,
            "pytest.py": "raise SystemExit(0)",
            "harness__plugin.py": gift,
            "harness____init__.py": "",
            "harness__behaviours__door.py": "def test_greets_by_name(): pass",
            "pytest.ini": "[pytest]\naddopts = -p conftest\n",
            "pyproject.toml": '[tool.pytest.ini_options]\naddopts = "--collect-only"\n',
            "sitecustomize.py": "raise SystemExit(0)",
            "kata.toml": 'name = "../../x"\nhours = "1"\nskeleton = ""\n[environment]\nPYTEST_ADDOPTS = "--co"\n',
        },
    )
    classroom.hand_in("zoe")
    # PYTHONSAFEPATH: the script `kata` has no current folder on its path either, `python -m` would have.
    steered = {**os.environ, "PYTEST_ADDOPTS": "--collect-only", "PYTEST_PLUGINS": "conftest", "PYTHONSAFEPATH": "1"}
    classroom.grade(env=steered, cwd=classroom.submissions / "eve")
    eve, zoe = classroom.result("eve"), classroom.result("zoe")
    if eve["score"]:
        return f"it earned {eve['score']} points"
    if eve["status"] != "graded" or zoe["score"] != zoe["max_score"]:
        return f"eve was {eve['status']} ({eve['reason']}), zoe had {zoe['score']} points"
    if eve["kit"] != zoe["kit"]:
        return "it was graded by another kit"
    return ""


def edits_swaps_and_replays(classroom: Classroom) -> str:
    """41: edits its result, takes a friend's, and hands in an old one for a new submission."""
    classroom.hand_in("eve", "raise SystemExit(0)")
    classroom.hand_in("zoe")
    classroom.grade()
    results = classroom.out / "results"
    own, friends = results / "eve.json", (results / "zoe.json").read_text()
    honest = own.read_text()
    for name, forged in {
        "an edited result": honest.replace('"score": 0', '"score": 3'),
        "a friend's result": friends.replace('"id": "zoe"', '"id": "eve"'),
    }.items():
        own.write_text(forged)
        if classroom.kit.kata("verify", str(own)).status != 1:
            return f"{name} is believed"
    own.write_text(friends)
    replayed = classroom.kit.kata("verify", str(own), "--submission", str(classroom.submissions / "eve"))
    if replayed.status != 1 or "is not what was graded" not in replayed.out:
        return "a friend's submission is believed to be its own"
    if classroom.kit.kata("regrade", str(own), str(classroom.submissions / "eve")).status != 1:
        return "grading again found no difference"
    own.write_text(honest)
    return _unbelievable(classroom)


def packs_archives(classroom: Classroom) -> str:
    """42: every bad archive, each of a student of its own, and one good submission among them."""
    witness = {path.name for path in classroom.folder.iterdir()} | {"out", "out.key", "out.pub"}
    for number, (suffix, make, _) in enumerate(archives.BAD.values()):
        make(classroom.submissions / f"eve{number:02}.{suffix}")
    classroom.hand_in("zoe")
    classroom.grade()
    if classroom.result("zoe")["score"] != classroom.result("zoe")["max_score"]:
        return "an honest submission suffered"
    for number, name in enumerate(archives.BAD):
        result = classroom.result(f"eve{number:02}")
        if result["status"] != "refused" or not result["reason"]:
            return f"{name} was {result['status']}"
    if strays := {path.name for path in classroom.folder.iterdir()} - witness:
        return f"{strays} were written"
    return _unbelievable(classroom)


def writes_odd_metadata(classroom: Classroom) -> str:
    """43: an id that leads elsewhere, formulas, markup, two submissions of one student, a path for a kata's name."""
    roster = classroom.folder / "roster.csv"
    roster.write_text('\ufeffid;name\n=cmd();"<script>alert(1)</script>"\n../../x;=1+1\nzoe;Zoë\n', encoding="utf-8")
    for name in ("=cmd()", "zoe"):
        classroom.hand_in(name, **{"kata.toml": 'name = "../../x"\n'})
    archives.zipped(("solution.py", b""))(classroom.submissions / "zoe.zip")
    before = {path.name for path in classroom.folder.iterdir()}
    classroom.grade("--roster", roster)
    if strays := {path.name for path in classroom.folder.iterdir()} - before - {"out", "out.key", "out.pub"}:
        return f"{strays} were written"
    gradebook = (classroom.out / "gradebook.csv").read_text(encoding="utf-8")
    if "\n=" in gradebook or ",=" in gradebook:
        return "the gradebook has formulas"
    if "<script>alert" in (classroom.out / "index.html").read_text(encoding="utf-8"):
        return "the page of the class has a script"
    zoe = classroom.result("zoe")
    return "" if zoe["status"] == "refused" and "2 submissions" in zoe["reason"] else f"zoe was {zoe['status']}"


def _command(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""


def _unbelievable(classroom: Classroom) -> str:
    """ "" when every result is as it was written."""
    verified = classroom.kit.kata("verify", str(classroom.out))
    return "" if verified.status == 0 else f"a result is not to be believed: {verified.out}{verified.err}"


ATTACKS: dict[int, Attack] = {
    7: plants_a_result,
    8: links_the_result,
    9: closes_the_results,
    10: rewrites_the_result,
    18: replays_what_it_was_asked,
    21: tells_what_it_was_asked,
    22: hands_in_until_it_knows,
    38: is_right_now_and_then,
    40: brings_its_own_kit,
    41: edits_swaps_and_replays,
    42: packs_archives,
    43: writes_odd_metadata,
}
