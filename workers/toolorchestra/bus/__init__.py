"""How episodes travel: `protocol` (RolloutBus), `memory` and `nats` (its implementations), `streams` (JetStream as
data). The bus carries opaque bytes in an `envelope`; nothing here knows what an order or a trace is."""
