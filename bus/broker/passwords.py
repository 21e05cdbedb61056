"""The password hash RabbitMQ keeps of a user: definitions carry it, never the password."""

from __future__ import annotations

import base64
import hashlib
import os

HASHING_ALGORITHM = "rabbit_password_hashing_sha256"
_SALT_LENGTH = 4


def hash_password(password: str, *, salt: bytes | None = None) -> str:
    """The `password_hash` of a user in definitions: base64 of salt and sha256(salt + password).

    Source: https://www.rabbitmq.com/docs/passwords#computing-password-hash.
    The salt is four bytes, random unless given.
    """
    salt = os.urandom(_SALT_LENGTH) if salt is None else salt
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
