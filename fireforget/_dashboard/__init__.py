"""The dashboard: what a browser shows of a queue, and does to it. `fireforget.dashboard` is its public face.

How a request travels::

    socket ─ server (asyncio reads whole requests, a few threads answer) ─┐
    an application's own WSGI server ─────────────────────────────────────┴─ wsgi ─ guard ─┬─ views    GET: what is read
                                                                                           ├─ actions  POST: what is changed
                                                                                           ├─ health   /healthz, /metrics
                                                                                           └─ static/  the page and its scripts

`guard` decides who may ask: host, token, origin. `views` makes JSON of what `Inspector` returns, cut to size, and shares one read
among all who look. `shown` is how a job's own data looks in JSON: always text, never markup.
"""
