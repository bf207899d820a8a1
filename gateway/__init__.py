"""The gateway: HTTP for programs that know no NATS. Every request is sent to `infer.auto` or `embed.auto`, as any
client's.

A gateway knows no backend, keeps nothing that another gateway needs, and asks no database. Read `serving` for the
course of one HTTP request; the differences of the dialects are in `dialects/`, one module each.
"""
