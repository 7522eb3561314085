"""The message bus for episodes: `protocol` (RolloutBus), `memory` and `nats` (implementations), `streams` (JetStream
configuration). The bus carries opaque bytes in an `envelope`; no module here knows what an order or a trace is.
"""
