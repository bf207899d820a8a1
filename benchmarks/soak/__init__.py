"""Random faults from a seed over a real mesh under load; afterwards every invariant is checked.

    python -m benchmarks soak                         # ten minutes, a seed of its own choice
    python -m benchmarks soak --seconds 60 --seed 7   # one minute of the story that 7 means
    python -m benchmarks soak --seed 1 2 3 4 5        # one after the other

A seed means the same faults in the same order and the same questions; the machine's own timing it cannot repeat.
Exit code 1 when an invariant is broken: the violations are printed with their seed, and the directory with the
journal (`history.jsonl`, one event per line) and the log of every process is kept. Read on in `plan` (which
faults), `load` (who asks what), `check` (what must hold, and which errors a fault may explain).
"""

from benchmarks.soak.runner import run, soak

__all__ = ["run", "soak"]
