"""The front doors: HTTP for programs that know no NATS. Everything asked here goes to `infer.auto`, as any client's.

A gateway knows no backend, keeps nothing that another gateway needs, and asks no database. Read `serving` for the story
of one HTTP request; what the dialects say differently is in `dialects/`, one module each.
"""
