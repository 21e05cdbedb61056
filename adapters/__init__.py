"""Adapters: the I/O of this project's systems, over the protocol connectors of the bus."""
