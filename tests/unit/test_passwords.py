"""The hash of a password, against RabbitMQ's own example."""

from bus.broker.passwords import hash_password


def test_the_example_of_the_rabbitmq_documentation_is_met() -> None:
    # https://www.rabbitmq.com/docs/passwords#computing-password-hash
    hashed = hash_password("test12", salt=bytes.fromhex("908DC60A"))

    assert hashed == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"


def test_the_same_password_hashes_differently_each_time() -> None:
    assert hash_password("test12") != hash_password("test12")
