"""Breaks the scoreboard on purpose, under load, and checks afterwards that every promise held: `python -m chaos`.

    cli         arguments, exit status        nemesis, recovery   what is broken when; how long it took to come back
    run         one run, from start to end    facts               what PostgreSQL, Redis and the servers say at the end
    stage       what is started, and how      evidence, checks_*  everything a checker may look at, and the checkers
    load, watchers   players and viewers      report              tables and JSON

Times are seconds since the run began, unless a name says otherwise.
"""
