"""`make attacks`: every attack at every level, one after the other, and the table of it as docs/attacks.md.

Exits with 1 when an attack was not held at a level that claims to hold it.
Numbers as arguments choose attacks; the other rows stay as they are.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from harness.solution.isolation import LEVELS, probe

from .catalogue import ATTACKS, Attack, AttackOnGrading
from .stage import ROOT

TABLE = Path(__file__).parents[2] / "docs" / "attacks.md"
HEAD = """# Attacks, and what holds them

What a hostile or careless submission may try. Each row is a real submission (`tests/attacks/submissions`) that was
graded at every level of isolation, and judged by facts: files outside, servers that listen, what it got hold of,
the verdicts of its honest part. `make attacks` writes this file.

✓ held · ✗ not held · – not tried: it would harm this machine where nothing holds it · ○ does not work here

| | attack | {levels} |
|---|---|{columns}|
"""


def cell(attack: Attack | AttackOnGrading, level: int, why_not: dict[int, str], outcome: dict[int, str]) -> str:
    if why_not[level]:
        return "○"
    if level not in outcome:
        return "–"
    if not outcome[level]:
        return "✓"
    told = re.sub(r"(/proc/)\d+", r"\1PID", outcome[level].replace(f"{ROOT}/", ""))
    return f"✗ {told[:160]}"


def tried(attack: Attack | AttackOnGrading, why_not: dict[int, str]) -> dict[int, str]:
    """Why it was not held, at each level at which it was tried."""
    working = [level for level in LEVELS if not why_not[level] and (attack.unclaimed or level in attack.claims)]
    if attack.once:
        outcome = attack.run(working[-1])
        return dict.fromkeys(working, outcome)
    return {level: attack.run(level) for level in working}


def row(number: int, what: str, *cells: str) -> str:
    return f"| {number} | {what} | {' | '.join(cells)} |"


def known_rows(wanted: list[int]) -> list[str]:
    """The rows of the table as it was written last, without those of the attacks that are tried now."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    numbers = ((line, line.split("|")[1].strip()) for line in lines if line.startswith("| "))
    return [line for line, number in numbers if number.isdigit() and int(number) not in wanted]


def main(wanted: list[int]) -> int:
    why_not = {level: probe.why_not(level) for level in LEVELS}
    rows = known_rows(wanted) if wanted else []
    failed = 0
    for attack in ATTACKS:
        if wanted and attack.number not in wanted:
            continue
        outcome = tried(attack, why_not)
        broken = [level for level in outcome if outcome[level] and level in attack.claims]
        failed += bool(broken)
        cells = [cell(attack, level, why_not, outcome) for level in LEVELS]
        fresh = row(attack.number, attack.what, *cells)
        rows.append(fresh)
        print(f"{'FAILED' if broken else 'ok':<7}{attack.number:>2} {attack.what}: {'  '.join(cells)}", flush=True)
    lines = sorted(rows, key=lambda each: int(each.split("|")[1]))
    head = HEAD.format(levels=" | ".join(f"level {level}" for level in LEVELS), columns="---|" * len(LEVELS))
    levels = [f"Level {level}: {why_not[level] or adds}." for level, adds in LEVELS.items()]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(head.replace("|---||", "|---|") + "\n".join([*lines, "", *levels]) + "\n", encoding="utf-8")
    print(f"{TABLE} is written; {failed} attacks were not held where they should be")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main([int(word) for word in sys.argv[1:]]))
