"""The operator: watches, decides, applies. Imports only the resources' models, telemetry and the bus's definitions."""
