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


@pytest.mark.parametrize(("scheme", "protocol"), [("kafka", "SASL_PLAINTEXT"), ("kafka+ssl", "SASL_SSL")])
def test_credentials(scheme: str, protocol: str) -> None:
    options = KafkaOptions(sasl_mechanism="SCRAM-SHA-256", plaintext_password=scheme == "kafka")
    settings = client_settings(parse_url(f"{scheme}://me:sec%40ret@h"), options)
    assert settings["security.protocol"] == protocol
    assert settings["sasl.mechanism"] == "SCRAM-SHA-256"
    assert (settings["sasl.username"], settings["sasl.password"]) == ("me", "sec@ret")


def test_a_password_goes_in_plain_text_only_where_that_is_said() -> None:
    with pytest.raises(ConfigError, match=r"kafka\+ssl://.*plaintext_password=true") as caught:
        client_settings(parse_url("kafka://me:sec%40ret@h"), KafkaOptions())
    assert "sec@ret" not in str(caught.value)


def test_tls_verifies_certificate_and_host_name() -> None:
    settings = client_settings(parse_url("kafka+ssl://h"), KafkaOptions(ca_file="/ca.pem", cert_file="/me.pem"))
    assert settings["security.protocol"] == "SSL"
    assert settings["enable.ssl.certificate.verification"] is True
    assert settings["ssl.endpoint.identification.algorithm"] == "https"
    assert settings["ssl.ca.location"] == "/ca.pem"
    assert settings["ssl.certificate.location"] == settings["ssl.key.location"] == "/me.pem"


def test_files_of_tls_need_tls() -> None:
    options = KafkaOptions(ca_file="/ca.pem", cert_file="/me.pem", key_file="/key.pem")
    with pytest.raises(ConfigError, match=r"ca_file, cert_file, key_file needs kafka\+ssl"):
        client_settings(parse_url("kafka://h"), options)


def test_a_key_needs_its_certificate() -> None:
    with pytest.raises(ConfigError, match="key_file needs cert_file"):
        client_settings(parse_url("kafka+ssl://h"), KafkaOptions(key_file="/key.pem"))


def test_a_missing_file_is_named_by_its_option() -> None:
    with pytest.raises(ConfigError, match=r"ca_file='/nowhere/ca\.pem'"):
        KafkaAdapter().connect(parse_url("kafka+ssl://h"), KafkaOptions(ca_file="/nowhere/ca.pem"), timeout=5)


def test_a_mistyped_option_of_tls_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ca_file'"):
        read_options(KafkaAdapter(), parse_url("kafka+ssl://h?cafile=/ca.pem"))


@pytest.mark.parametrize("url", ["kafka://h/path", "kafka://me@h", "kafka+ssl://me@h"])
def test_malformed_urls(url: str) -> None:
    with pytest.raises(ConfigError, match=r"expected kafka(\+ssl)?://"):
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
