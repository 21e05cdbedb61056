"""Connectors: the protocols adapters speak. A connector knows its protocol and no system.

An adapter class is constructed as `Class(endpoint, *, secret)`: `endpoint` is its table of bus.toml and
`secret(name)` resolves, at every call anew, the secret reference that stands in `endpoint.options[name]`. A
constructor does no I/O and raises ConfigurationError for an address or an option it does not understand.
"""
