"""From a URL to the client's settings."""

import pytest
from unimq_kafka import KafkaAdapter
from unimq_kafka._options import KafkaOptions, addresses, client_settings, consumer_settings, producer_settings

from unimq import ConfigError
from unimq._adapters import read_options
from unimq._url import parse_url


def test_hosts_and_ports() -> None:
    assert addresses(parse_url("kafka://a,b:1234,[::1]")) == "a:9092,b:1234,[::1]:9092"
    assert addresses(parse_url("kafka://")) == "localhost:9092"


def test_options_are_read_from_text() -> None:
    options, declares = read_options(KafkaAdapter(), parse_url("kafka://h?partitions=12&replication=3&linger=0.005"))
    assert options == KafkaOptions(partitions=12, replication=3, linger=0.005)
    assert declares


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("partitions=0", "partitions"),
        ("group_protocol=share", "group_protocol"),
        ("acks=1", "acks"),
        ("linger=x", "linger"),
    ],
)
def test_wrong_options_are_named(query: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        read_options(KafkaAdapter(), parse_url(f"kafka://h?{query}"))


def test_credentials() -> None:
    settings = client_settings(parse_url("kafka://me:sec%40ret@h"), KafkaOptions(sasl_mechanism="SCRAM-SHA-256"))
    assert settings["security.protocol"] == "SASL_PLAINTEXT"
    assert settings["sasl.mechanism"] == "SCRAM-SHA-256"
    assert (settings["sasl.username"], settings["sasl.password"]) == ("me", "sec@ret")


@pytest.mark.parametrize("url", ["kafka://h/path", "kafka://me@h"])
def test_malformed_urls(url: str) -> None:
    with pytest.raises(ConfigError, match="kafka://"):
        client_settings(parse_url(url), KafkaOptions())


def test_sends_are_idempotent_and_no_batch_exceeds_the_topic() -> None:
    settings = producer_settings({}, KafkaOptions(), 50_000)
    assert settings["enable.idempotence"] is True
    assert settings["acks"] == "all"
    assert settings["message.max.bytes"] == settings["batch.size"] == 50_000


def test_settings_that_the_new_group_protocol_refuses_are_for_the_classic_one_alone() -> None:
    classic = consumer_settings({}, KafkaOptions(session_timeout=6), "g", "classic", 100)
    new = consumer_settings({}, KafkaOptions(), "g", "consumer", 100)
    assert (classic["session.timeout.ms"], classic["heartbeat.interval.ms"]) == (6000, 600)
    assert set(classic) - set(new) == {
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "partition.assignment.strategy",
    }
