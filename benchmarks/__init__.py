"""What the scoreboard costs and how fast it is: `python -m benchmarks`, or `python3 run.py bench`.

    cli          arguments; runs scenarios          http_client    the load, a process of its own
    scenarios_*  what is measured, and how          watchers       live sockets, a process of their own
    stage        engines, servers, players          processes      CPU seconds and memory from /proc
    figures      percentiles, runs, medians, bars   report         table, Markdown, JSON

A shared machine's rates are noise, so each row also has CPU seconds per 10,000 operations, of server, PostgreSQL and Redis apart.
"""
