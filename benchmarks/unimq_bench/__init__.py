"""The cross-backend benchmark: one workload file on any set of brokers, raw clients and peers in the same run.

Modules that run inside a role's process (`roles`, `producing`, `consuming`, `pacing`, `bodies`, `recording`, `rows`)
import the standard library alone, because a peer's row runs in an environment of its own that has nothing else. This
file is therefore empty of imports.
"""
