"""The promises of the README, each tried on the user's own machine and disk: `promptmill selftest`.

    promises   the table: which check stands for which promise, and how they are carried out
    place      where a check works: its folder, the program as a process of its own, a simulator as its server
    measured   the peak memory of a process, measured from outside it
    results    what a run left in its part files
    verdict    what a check comes to
    machine    what it was carried out on
    lines      verdicts as a user reads them

and a module a promise, whose `gather` lets the program do something and brings the evidence (what the simulator's ledger
counted, what the run folder holds, what was printed), and whose `judge`, a pure function, says whether the promise held:

    rows       1  rows out = rows in
    crashes    2  kill -9 loses nothing and pays for nothing twice
    pace       3  the limits hold
    memory     5  memory does not grow with rows
    faults     6  failures are classified, and retried where that can help
    secrecy    7  no key and no traceback gets out, and no text of a row gets in
    order      8  the same parts in whatever order answers come

The program is tried as it is shipped, from outside: nothing of it is imported to run it.
"""
