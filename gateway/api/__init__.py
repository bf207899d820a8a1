"""`/api/v1/…`: what the live page shows and does, as a JSON API for any program.

The gateway looks at the mesh over NATS (`watching`), has telemetry answer about the books (`books`), and passes on the
orders of those who may give them (`orders`). Who may see and do what is decided in `access`, never on the page.
"""
