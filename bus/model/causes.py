"""Every cause code with its remedy: what a person does about it, in one line."""

from __future__ import annotations

REMEDIES: dict[str, str] = {
    # -- opening a message: receipts
    "json": "Ask the sender to send JSON as RFC 8259 has it; the place named is in the body as it came.",
    "json.charset": "Ask the sender to send JSON in UTF-8.",
    "json.syntax": "Ask the sender to send well-formed JSON; look at the line and column named.",
    "json.depth": "Ask the sender for a flatter document, or split it.",
    "json.duplicate-key": "Ask the sender which of the two values holds; one object may name a key once.",
    "json.nan": "Ask the sender to leave out a number it does not have; NaN and Infinity are not JSON.",
    "xml": "Ask the sender to send well-formed XML 1.0; the place named is in the body as it came.",
    "xml.charset": "Ask the sender to declare the encoding the document is in, UTF-8 at best.",
    "xml.syntax": "Ask the sender to send well-formed XML; look at the line and column named.",
    "xml.doctype": "Ask the sender to leave DOCTYPE and entities out; they are refused for safety.",
    "xml.depth": "Ask the sender for a flatter document, or split it.",
    "text.nul": "Ask the sender to leave the NUL character out of the text named.",
    "body.too-large": "Ask the sender for smaller documents, or raise the size limit in bus.toml.",
    "reader.killed": "Look at the raw bytes apart from the bus: reading them ended the process three times.",
    "store.refused-value": "Ask the sender to leave out the value named; the database cannot keep it.",
    "contract": "Compare the document with `bus contract show`.",
    "contract.violated": "Compare the fields named with `bus contract show`; correct the sender or the contract.",
    "type": "Compare with `bus contract list`.",
    "type.unknown": "Correct the type at the sender, or add its contract; `bus contract list` names the known ones.",
    "type.version-unknown": "Let the sender use a known version, or add a contract for this one.",
    "key": "Correct the path the ordering key is read from, at the sender or in the contract.",
    "key.missing": "Let the sender fill the path named: without it the order of its messages cannot be kept.",
    "key.several": "Let the sender send one document per subject, or let the contract split it.",
    "key.contradicts": "Correct the header subject or the document; they name different things.",
    "identity": "Give the message a message_id.",
    "identity.missing": "Let the sender set message_id, or fill the path that identifies the fact.",
    "sender": "Compare the sender's user and rights with its system in bus.toml.",
    "sender.foreign-system": "Let each system use its own user, or list the system under speaks_for of the bridge.",
    "sender.not-allowed-type": "Add the type to what the system publishes in bus.toml, then `bus topology apply`.",
    "properties": "Correct the properties at the sender.",
    "properties.contradict-routing-key": "Let the sender set type, app_id and site as in its routing key.",
    "id": "Compare both messages with `bus message show`.",
    "id.conflict": "Find out why the sender used one id for two facts; the first stands, the other needs its own id.",
    "id.duplicate": "Nothing: the message came before and was taken then.",
    # -- routing and transforming
    "predicate.raised": "Correct the route's condition, then replay.",
    "transformer.raised": "Correct the transformer with the message as its test, then replay.",
    "transformer.output-invalid": "Correct the transformer: what it made violates its contract; then replay.",
    "value-map.missing": "Add the value named to the partner's value map, then replay.",
    "worker": "Look at the worker's log around the time of the attempt.",
    "worker.killed": "Look at what ended the worker three times (memory, a crash in a library), then replay.",
    "worker.killed-while-sending": "Ask the target whether it has the document, then `bus doubt happened` or `absent`.",
    "route.unknown": "Put the route back under its name, or discard the delivery.",
    # -- endpoints: nothing was sent, deliveries are held
    "endpoint": "Look at the endpoint with `bus endpoint show`; deliveries are held until it is back.",
    "endpoint.unknown": "Put the endpoint back into bus.toml, or discard the delivery.",
    "endpoint.refused-connection": "Start the target, or correct host and port in bus.toml.",
    "endpoint.unreachable": "Check network, firewall and routing between this machine and the target.",
    "endpoint.connect-timeout": "Check whether a firewall drops the connection, or the target is overloaded.",
    "endpoint.dns": "Correct the host name in bus.toml, or the name service of this machine.",
    "endpoint.tls": "Renew the target's certificate, or name its authority in the endpoint's ca_file.",
    "endpoint.address-refused": "Correct the address: link-local targets are never called.",
    "endpoint.credentials-missing": "Provide the secret that the endpoint's reference names.",
    "endpoint.credentials-refused": "Correct the secret, or the user's rights at the target; no restart is needed.",
    "endpoint.csrf-refused": "Check that the target keeps sessions: it refuses the token it has just given.",
    "endpoint.redirects": "Put the final address into bus.toml; redirects are not followed.",
    "endpoint.no-free-connection": "Nothing, it is tried again; lasting: the target is slower than its time-out.",
    "endpoint.no-answer": "Look at the target: it takes connections but does not answer.",
    "endpoint.check-refused": "Correct the path that is asked, or look at the target: it answers, but not as expected.",
    "endpoint.missing-exchange": "Type `bus topology apply`: the exchange to publish to does not exist.",
    "endpoint.broker-closed": "Look at the broker's log: it closed the connection while the bus logged in.",
    # -- the target's answers
    "request.invalid": "Correct the transformer or the message's properties: the request cannot be written.",
    "target": "Read the target's own code and text; it may be tried again.",
    "target.busy": "Nothing, it is tried again; lasting: find out who holds the lock or what overloads the target.",
    "target.refused": "Read the target's own code and text, correct the master data or the message, then replay.",
    "target.unroutable": "Bind a queue for the routing key named, or remove the route to this endpoint.",
    "outcome": "Ask the target whether it has the document, then `bus doubt happened` or `absent`.",
    "outcome.timeout": "Ask the target whether it has the document; lasting: raise the endpoint's timeout.",
    "outcome.connection-cut": "Ask the target whether it has the document; the connection ended before its answer.",
    "outcome.server-error": "Ask the target whether it has the document, and look at its own log for the error.",
    "outcome.unreadable-answer": "Ask the target whether it has the document; its answer lacks what names it.",
    "outcome.not-confirmed": "Look at the broker: it neither took nor refused the message for certain.",
    "probe.unreadable-answer": "Ask the target by hand for our external id; its answer to the search cannot be read.",
    "adapter.raised": "Correct the adapter: it raised an error it should have translated; it may have been sent.",
}
"""cause → remedy. A cause not listed has the remedy of its longest listed prefix (`target.409`: that of `target`)."""

UNKNOWN = "Look at the attempt with `bus dead show`; this cause has no remedy of its own."


def remedy(cause: str) -> str:
    """What to do about a cause, in one line; of its nearest listed prefix where it is not listed itself."""
    known = cause
    while known and known not in REMEDIES:
        known = known.rpartition(".")[0]
    return REMEDIES.get(known, UNKNOWN)
