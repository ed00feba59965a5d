"""The worker's processes.

::

    supervisor ── owns the queue: claims, settles, decides ─────────────── jobs.db
       │  ▲  frames of jobs down, outcomes up (channel)
       │  │                        ┌──────────────────────────────────────── board: a small file mapped by all of them,
       ▼  │                        ▼                                         which says what runs, and is the worker's lock
     child child ... ◄── forked by ── fork helper ── forked by ── supervisor, before it has threads or a database

`config` what a worker is told; `board` the mapped file and the lock; `channel` messages over a socket; `plan` how many jobs go
where, as pure functions; `child` is the process that runs handlers, `runner` what runs one job; `helper` forks children and
tells of their ends; `enforcer` interrupts and kills what runs too long; `crew` is the children as the supervisor sees them;
`verdicts` what became of their jobs; `notice` tells that the database changed; `recovery` takes over from dead workers;
`groups` and `schedules` store what is due; `ring` and `tally` carry results and counts; `hooks` calls the application's;
`bookkeeper` writes the metrics file, `trimmer` trims queues to their limits, each on a thread `aside`; `supervisor` is the
loop; `control` the `Worker` that people see, and `handover` the relay's.
"""
