"""Runs untrusted text and code in processes that can be killed, have no secrets and no access: `Sandbox.run`.

```
worker ── sandbox.py ──┐ one zygote: a new interpreter with an empty environment, protected before its first import
                       ├─ control socket: "warm", "fork", "end"
                       └─ one socket per child: jobs in, results out, as length-prefixed JSON with a bound
zygote ── zygote.py: imports the program once, and forks children that share its memory
child  ── child.py:  runs one job after the other, each with its own CPU seconds; any failure ends only the child
          connection.py: several jobs may be sent to a child at once; results return in the same order
```

Invariants: a job has exactly one `Result`. A child sends JSON, never a pickle, and the worker trusts only its type. A
child that failed is never used again; jobs that were sent to it go to another child. No process outlives the worker. A
job never runs in the caller's process. If a protection is missing, `Protections` says so.
"""
