"""Untrusted programs, contained: five files that take away, one that starts, one that watches, one that asks for it.

| level | needs | adds |
|---|---|---|
| 0 | nothing | a copy without links, a clean environment, limits, a sweep of what daemonised; as root another user |
| 1 | Landlock, seccomp | no file but its own and the system's, no signals outward, connects to its peers only |
| 2 | user namespaces | a network that has nothing but `lo`, private memory files, a disk of fixed size |
| 3 | bubblewrap | a file system and process table of its own; no trace of the kit in either |

    staging.py       copies a submission, without following its links
    interpreter.py   the Python that a solution may have, without the kit beside it
    places.py        what of this system a program may read
    limits.py        rlimits, and the watchdog over what they don't bound
    landlock.py      files, ports and signals            (level 1, in the program's own process before it is executed)
    seccomp.py       system calls that no solution needs (level 1)
    namespaces.py    the harness moves into its own      (level 2)
    bubblewrap.py    the arguments of bwrap              (level 3)
    launcher.py      a process of one thread that forks, takes away, executes, and watches
    sandbox.py       the harness's end of it: `Isolation`, which `Process` starts programs with
    probe.py         which levels work here: each is really run once

The harness is trusted and stays outside of all this, except for the namespaces of level 2. It meets the program over
TCP and through /proc alone; control goes over a socket pair that no program inherits.
"""

LEVELS = {
    0: "copy, clean environment, limits",
    1: "Landlock and seccomp: no files, signals and ports of others",
    2: "a network of its own",
    3: "bubblewrap: a file system and process table of its own",
}
