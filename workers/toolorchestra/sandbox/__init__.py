"""Untrusted text and code, in processes that can be killed, hold no secrets and reach nothing: `Sandbox.run`.

```
worker ── sandbox.py ──┐ one zygote: a fresh interpreter with an empty environment, protected before it imports anything
                       ├─ control socket: "warm", "fork", "end"
                       └─ one socket per child: jobs in, results out, as length-prefixed JSON with a bound
zygote ── zygote.py: imports the program once, forks children that share its memory
child  ── child.py:  one job after the other, each with its own CPU seconds; dies with whatever goes wrong
          connection.py: several jobs are on their way to a child at a time; results come in their order, one by one
```

Invariants: a job comes to exactly one `Result`; what a child sends is data, never a pickle, never believed beyond its
type; a child that broke is never used again, and what was on its way to it is asked of another; no process outlives the
worker. Nothing here falls back into the caller's process: where a protection is missing, `Protections` says so.
"""
