"""What may stand in the file, and every kind of mistake: the error names file, key, and what would be right."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unimq import ConfigError, Queue, Topic
from unimq._configuration import Configuration, read_configuration

from .conftest import Write

EVERYTHING = """
default = "a"
[brokers.a]
url = "memory://"
private = true
max_message_bytes = 5
[brokers.b]
url = "kafka://h?linger=0.5"
user = "u"
password = "p@:/"
partitions = 2
declare = false
[queues.orders]
ordering = "key"
ttl = "1h30m"
max_length = 10
overflow = "drop_oldest"
lease = 0.5
max_deliveries = 3
dead_letter = true
dead_letter_expired = true
portable_name = true
[queues.plain]
[topics.events]
ordering = "key"
require_subscription = true
portable_name = true
[topics.events.subscriptions.audit]
start = "earliest"
ttl = "250ms"
max_length = 9
overflow = "reject"
lease = "2d"
max_deliveries = 1
dead_letter = true
dead_letter_expired = true
"""


@pytest.mark.parametrize("name", ["unimq.toml", "pyproject.toml"])
def test_everything_that_a_file_can_say(write: Write, name: str) -> None:
    text = EVERYTHING
    if name == "pyproject.toml":
        text = "[tool.unimq]" + text.replace("[brokers", "[tool.unimq.brokers").replace(
            "[queues", "[tool.unimq.queues"
        ).replace("[topics", "[tool.unimq.topics")
    found = read_configuration(write(text, name))
    topic = Topic("events", "key", require_subscription=True)
    assert found.destinations == {
        "orders": Queue("orders", "key", 5400.0, 10, "drop_oldest", 0.5, 3, True, True),
        "plain": Queue("plain"),
        "events": topic,
        "events--audit": topic.subscription(
            "audit",
            start="earliest",
            ttl=0.25,
            max_length=9,
            lease=172_800.0,
            max_deliveries=1,
            dead_letter_expired=True,
        ),
    }
    assert found.default == "a"
    assert found.named(None)[0].options == {"private": "true", "max_message_bytes": "5"}
    url, place = found.named("b")
    assert (url.user, url.password) == ("u", "p@:/")
    assert url.options == {"linger": "0.5", "partitions": "2", "declare": "false"}
    assert place.endswith("brokers.b")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("defualt = 'a'", "defualt: unknown key; did you mean 'default'? Valid: brokers, default, queues, topics"),
        ("default = 3", 'default: expected a text, for example default = "local", not 3'),
        (
            "default = 'a'\n[brokers.ab]\nurl = 'memory://'",
            "default: no broker of that name; did you mean 'ab'? Valid: ab",
        ),
        ("brokers = 3", "brokers: expected tables, [brokers.NAME], not a whole number"),
        ("[brokers]\na = 'memory://'", "brokers.a: expected a table, not a text"),
        ("[brokers.a]\nurl = 3", 'brokers.a.url: expected a URL, for example url = "amqp://localhost/", not a whole'),
        ("[brokers.a]\nulr = 'x'", "brokers.a: the key url is missing"),
        ("[brokers.a]\nurl = 'memory://'\nuser = 1979-05-27", "brokers.a.user: expected a text"),
        ("[brokers.a]\nurl = 'memory://'\nx = []", "brokers.a.x: expected a text, number or flag, not an array"),
        ("[brokers.a]\nurl = 'memory://'\nx = 0x" + "f" * 9000, "brokers.a.x: expected a text, number or flag"),
        ("[[queues]]", "queues: expected tables, [queues.NAME], not an array"),
        ("[queues.o]\ntll = 3", "queues.o.tll: unknown key; did you mean 'ttl'?"),
        ("[queues.o]\nttl = true", 'queues.o.ttl: expected seconds, or a text such as "30s"'),
        ("[queues.o]\nttl = '1 h'", "not '1 h'"),
        ("[queues.o]\nttl = ''", "queues.o.ttl: expected seconds"),
        ("[queues.o]\nttl = 0", "queues.o.ttl: must be more than 0 seconds, not 0"),
        ("[queues.o]\nlease = inf", "queues.o.lease: must be more than 0 seconds, not inf"),
        ("[queues.o]\nlease = nan", "queues.o.lease: must be more than 0 seconds, not nan"),
        ("[queues.o]\nordering = 'fifo'", 'queues.o.ordering: expected "none" or "key", for example ordering = "key"'),
        ("[queues.o]\nmax_length = 1.5", "queues.o.max_length: expected a whole number of at least 1"),
        ("[queues.o]\nmax_deliveries = 0", "queues.o.max_deliveries: expected a whole number of at least 1"),
        ("[queues.o]\nmax_length = 0x" + "f" * 9000, "max_length: expected a whole number of at least 1"),
        ("[queues.o]\ndead_letter = 'no'", "queues.o.dead_letter: expected true or false"),
        (
            "[queues.o]\noverflow = 'drop_oldest'",
            'queues.o: overflow="drop_oldest" says what happens beyond max_length',
        ),
        ("[queues.o]\ndead_letter = false\ndead_letter_expired = true", "queues.o: dead_letter_expired=True needs"),
        ("[queues.'a b']", "queues.'a b': queue name 'a b': only letters"),
        ("[queues.a--b]", "queues.a--b: the queue of a subscription; use [topics.a.subscriptions.b]"),
        ("[queues.a]\n[topics.a]", "topics.a: there is a queue of the same name"),
        ("[topics.a--b]", "topics.a--b: topic name 'a--b': '--' is reserved"),
        ("[topics.a]\nttl = 3", "topics.a.ttl: unknown key"),
        ("[topics.a]\nsubscriptions = 'b'", "topics.a.subscriptions: expected tables"),
        ("[topics.a.subscriptions]\nb = 1", "topics.a.subscriptions.b: expected a table, not a whole number"),
        ("[topics.a.subscriptions.b]\nordering = 'key'", "topics.a.subscriptions.b.ordering: unknown key"),
        ("[topics.a.subscriptions.b]\nstart = 'later'", 'subscriptions.b.start: expected "now" or "earliest"'),
        ("[topics.a.subscriptions.'b c']", "topics.a.subscriptions.'b c': subscription name 'b c'"),
        ("not toml", "is not valid TOML: "),
        ("x = " + "[" * 100_000, "nested too deeply"),
        ("#" * (1 << 20) + "#", "more than 1048576 bytes"),
    ],
)
def test_mistakes(write: Write, text: str, what: str) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        read_configuration(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert what in str(caught.value)
    assert len(str(caught.value)) < 400


def test_files_that_cannot_be_read(folder: Path) -> None:
    for path, what in ((folder / "none.toml", "cannot be read: No such file"), (folder, "cannot be read: Is a dir")):
        with pytest.raises(ConfigError, match=what):
            read_configuration(path)
    (folder / "binary.toml").write_bytes(b"x = '\xff'")
    with pytest.raises(ConfigError, match="is no UTF-8 text"):
        read_configuration(folder / "binary.toml")


@pytest.mark.parametrize("text", ["tool = 3", "[tool]\nunimq = 3"])
def test_a_pyproject_whose_table_is_none(write: Write, text: str) -> None:
    with pytest.raises(ConfigError, match="expected a table, not a whole number"):
        read_configuration(write(text, "pyproject.toml"))


WORDS = [
    "default", "brokers", "queues", "topics", "subscriptions", "a", "url", "password", "ordering", "ttl", "lease",
    "max_length", "overflow", "dead_letter", "start", "a--b", "tll", "é", "",
]  # fmt: skip
SCALARS = st.one_of(
    st.booleans().map(lambda flag: str(flag).lower()),
    st.integers().map(str),
    st.integers(0, 2**9000).map(hex),
    st.floats().map(repr),
    st.sampled_from(["'1h'", "'key'", "'none'", "'drop_oldest'", "'memory://'", "'${X}'", "1979-05-27", "07:32:00"]),
    st.text("aé'\"\\$\n\x00", max_size=4).map(lambda text: f'"{text}"'),
    st.just("a"),
)
KEYS = st.sampled_from(WORDS).map(lambda word: f'"{word}"')
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]"),
        st.dictionaries(KEYS, inner, max_size=4).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
        ),
    ),
    max_leaves=12,
)


@given(
    text=st.one_of(
        st.dictionaries(KEYS, VALUES, max_size=5).map(
            lambda table: "\n".join(f"{key} = {value}" for key, value in table.items())
        ),
        st.text(),
    )
)
@example(text='queues = {"a" = {"ttl" = 1e400}}')
@example(text=f'queues = {{"a" = {{"ttl" = {hex(2**9000)}}}}}')
@example(text='default = "a"\nbrokers = {"a" = {"url" = "memory://", "ttl" = 1}}')
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "unimq.toml"
        path.write_text(text, encoding="utf-8", errors="replace")
        try:
            found = read_configuration(path)
        except ConfigError as error:
            assert str(error).startswith(str(path))  # noqa: PT017
            return
    assert isinstance(found, Configuration)
    for name in found.brokers:
        try:
            url, _ = found.named(name)
        except ConfigError:
            continue
        assert url.scheme
