"""Traces and logs. Library code needs only `spans`, `names` and `propagation` (OpenTelemetry's API); the SDK is set up
by a process's entry point through `setup.configure` and `logs.configure_logs`."""
