"""Budgets: what tenants and models may spend. `accounts` is pure; `ledger` shares it through JetStream."""
