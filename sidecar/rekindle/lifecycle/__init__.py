"""The pure state machine of one engine's life, and the values that tell of it. No I/O here."""
