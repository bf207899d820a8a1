"""`/api/v1/…`: what the live page shows and does, as a JSON API for any program.

The gateway follows the mesh over NATS (`watching`), asks telemetry about the books (`books`), and passes on the orders
of operators (`orders`). Who may see and do what is decided in `access`, never on the page.
"""
