"""The broker's management API: compares the topology with what is there, and sets users and their rights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import httpx

from bus.broker.differences import Comparison, Difference
from bus.broker.passwords import HASHING_ALGORITHM, hash_password
from bus.errors import BrokerUnavailable, ConfigurationError
from bus.model.topology import OUT, Topology, User
from bus.tls import TlsFiles, client_context, tls_trouble

_EXPECTED = "management URL: http://host:15672 (or https://…) is expected"
_APPLY = "run `bus topology apply`"
_UNCHECKED = ("passwords: the broker keeps only their hashes",)


class Management:
    """One administrator's access to one vhost. `url` is `http://host:15672`; user and password may stand in it.

    `https://` checks certificate and host name; `cacertfile`, `certfile` and `keyfile` in its query as in AMQP's URLs.
    """

    def __init__(self, url: str, *, vhost: str, user: str = "", password: str = "") -> None:
        try:
            parts, login = urlsplit(url), httpx.URL(url)
        except (ValueError, httpx.InvalidURL):
            # Without its text and cause: they may quote half of a password.
            raise ConfigurationError(_EXPECTED) from None
        if parts.scheme not in ("http", "https") or not parts.hostname or login.host not in parts.netloc:
            raise ConfigurationError(_EXPECTED)
        given = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if unknown := sorted(set(given) - {"cacertfile", "certfile", "keyfile"}):
            raise ConfigurationError(
                f"management URL: unknown option {', '.join(map(repr, unknown))}; known: cacertfile, certfile, keyfile"
            )
        if parts.scheme == "http" and given:
            raise ConfigurationError(f"management URL: {', '.join(sorted(given))} without TLS; https:// speaks it")
        host = parts.netloc.rpartition("@")[2]
        self._shown = urlunsplit((parts.scheme, host, "", "", ""))
        self._vhost = quote(vhost, safe="")
        self._client = httpx.Client(
            base_url=f"{self._shown}{parts.path.rstrip('/')}/api/",
            auth=(user or login.username, password or login.password),
            timeout=10,
            trust_env=False,
            verify=client_context(
                TlsFiles(
                    ca_file=given.get("cacertfile", ""),
                    certificate=given.get("certfile", ""),
                    key=given.get("keyfile", ""),
                )
            ),
        )

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def diff(self, topology: Topology) -> Comparison:
        """What is missing, differs, or may do more than it should.

        Left out: queues and exchanges that are not the bus's (others may bind to `bus.out`), and the rights of
        administrators, who can take every right.

        Raises:
            BrokerUnavailable: the API cannot be reached, or refuses this user.
        """
        users = {user["name"]: user for user in self._get("users")}
        found = (
            *self._exchanges(topology),
            *self._queues(topology),
            *self._bindings(topology),
            *_users(topology, users),
            *self._permissions(topology, users),
            *self._topic_permissions(topology),
        )
        return Comparison(found, _UNCHECKED)

    def apply_users(self, topology: Topology, *, reveal: Callable[[str], str]) -> None:
        """Set users and rights. `reveal` turns a secret reference into the password, which goes out hashed.

        A user without a reference keeps the password it has.

        Raises:
            ConfigurationError: a user is new and has no reference; nothing was changed for it.
            BrokerUnavailable: the API cannot be reached, or refuses this user.
        """
        there = {user["name"]: user for user in self._get("users")}
        for user in topology.users:
            if user.password:
                tags = there[user.name]["tags"] if user is topology.users[0] and user.name in there else []
                body = {"password_hash": hash_password(reveal(user.password)), "hashing_algorithm": HASHING_ALGORITHM}
                self._put(f"users/{quote(user.name, safe='')}", body | {"tags": tags})
            elif user.name not in there:
                raise ConfigurationError(
                    f"broker user {user.name!r} is new and has no password: give its system "
                    "password = 'env:NAME' or 'file:path' in bus.toml"
                )
            self._apply_rights(user)

    def _apply_rights(self, user: User) -> None:
        at = f"{self._vhost}/{quote(user.name, safe='')}"
        rights = {"configure": user.configure, "write": user.write, "read": user.read}
        # Topics first: a user without a topic permission may write every routing key.
        for exchange, (write, read) in user.topics.items():
            self._put(f"topic-permissions/{at}", {"exchange": exchange, "write": write, "read": read})
        self._put(f"permissions/{at}", rights)

    # --- one comparison each -----------------------------------------------------------------------------------------

    def _exchanges(self, topology: Topology) -> Iterator[Difference]:
        there = {exchange["name"]: exchange for exchange in self._get(f"exchanges/{self._vhost}")}
        for exchange in topology.exchanges:
            expected = {"type": exchange.type, "durable": True, "arguments": dict(exchange.arguments)}
            yield from _compared("exchange", exchange.name, expected, there.get(exchange.name))

    def _queues(self, topology: Topology) -> Iterator[Difference]:
        there = {queue["name"]: queue for queue in self._get(f"queues/{self._vhost}")}
        for queue in topology.queues:
            expected = {"durable": True, "arguments": dict(queue.arguments)}
            yield from _compared("queue", queue.name, expected, there.get(queue.name))

    def _bindings(self, topology: Topology) -> Iterator[Difference]:
        ours = {exchange.name for exchange in topology.exchanges} - {OUT}
        expected = {(b.source, b.destination, b.kind, b.routing_key) for b in topology.bindings}
        there = {
            (b["source"], b["destination"], b["destination_type"], b["routing_key"])
            for b in self._get(f"bindings/{self._vhost}")
            if b["source"] in ours
        }
        for source, destination, kind, key in sorted(expected - there):
            yield Difference("binding", f"{source} → {kind} {destination} ({key})", "is missing", _APPLY)
        for source, destination, kind, key in sorted(there - expected):
            name = f"{source} → {kind} {destination} ({key})"
            yield Difference("binding", name, "should not be there", "unbind it, or give its type a contract")

    def _permissions(self, topology: Topology, users: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
        there = {right["user"]: right for right in self._get(f"vhosts/{self._vhost}/permissions")}
        for user in topology.users:
            expected = {"configure": user.configure, "write": user.write, "read": user.read}
            yield from _compared("permission", user.name, expected, there.get(user.name))
        for name in sorted(there.keys() - {user.name for user in topology.users}):
            if "administrator" in users[name]["tags"]:
                continue
            yield Difference(
                "permission", name, "a user the bus does not know has rights here", "clear its permissions"
            )

    def _topic_permissions(self, topology: Topology) -> Iterator[Difference]:
        there = {
            (right["user"], right["exchange"]): right for right in self._get(f"vhosts/{self._vhost}/topic-permissions")
        }
        expected = {(user.name, name): rights for user in topology.users for name, rights in user.topics.items()}
        for (name, exchange), (write, read) in expected.items():
            wanted = {"write": write, "read": read}
            yield from _compared("topic permission", f"{name} at {exchange}", wanted, there.get((name, exchange)))
        known = {user.name for user in topology.users}
        for name, exchange in sorted(key for key in there.keys() - expected.keys() if key[0] in known):
            yield Difference("topic permission", f"{name} at {exchange}", "should not be there", "clear it")

    # --- HTTP --------------------------------------------------------------------------------------------------------

    def _get(self, path: str) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._ask("GET", path).json()
        return answer

    def _put(self, path: str, body: Mapping[str, Any]) -> None:
        self._ask("PUT", path, body)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        try:
            answer = self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            is_tls = self._shown.startswith("https:")
            if is_tls and (trouble := tls_trouble(error, option="cacertfile=", own="certfile= and keyfile=")):
                raise BrokerUnavailable(f"the management API at {self._shown}: {trouble}") from error
            raise BrokerUnavailable(
                f"the management API at {self._shown} cannot be reached ({error or type(error).__name__}): "
                "enable it with `rabbitmq-plugins enable rabbitmq_management`, or correct the URL"
            ) from error
        if answer.status_code in (401, 403):
            raise BrokerUnavailable(
                f"the management API at {self._shown} refuses this user: "
                "it needs the tag administrator and its password"
            )
        if answer.is_error:
            raise BrokerUnavailable(
                f"the management API at {self._shown} answered {answer.status_code} to {method} {path}: "
                f"{answer.text[:300]}"
            )
        return answer


def _users(topology: Topology, there: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    for user in topology.users:
        if user.name not in there:
            yield Difference("user", user.name, "is missing", _APPLY)
        elif there[user.name]["tags"] and user is not topology.users[0]:
            found = f"has the tags {there[user.name]['tags']}, none is expected"
            yield Difference("user", user.name, found, _APPLY)


def _compared(
    kind: str, name: str, expected: Mapping[str, Any], there: Mapping[str, Any] | None
) -> Iterator[Difference]:
    if there is None:
        yield Difference(kind, name, "is missing", _APPLY)
        return
    for aspect, wanted in expected.items():
        found = there.get(aspect)
        if found != wanted:
            fixed = kind in ("exchange", "queue")
            remedy = "it is fixed at creation: empty it, delete it, and apply again" if fixed else _APPLY
            yield Difference(kind, name, f"{aspect} is {found!r}, {wanted!r} is expected", remedy)
