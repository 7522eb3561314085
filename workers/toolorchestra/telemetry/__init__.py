"""Traces, metrics and logs. Library code needs only OpenTelemetry's API: `spans`, `names`, `propagation`, `metrics`.

The entry point of a process sets up the SDK with `setup.configure`, and logging with `logs.configure_logs`.
"""
