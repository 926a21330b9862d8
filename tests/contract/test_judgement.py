"""When a run on mutants is red: whatever is missing to the proof that each test can fail, and on its own fault."""

from unimq_contract.mutants.judgement import Judgement

CLAIMS = {"test_acks": 2, "test_frozen": 1}
KILLED = {("memory", "ack-dropped", "test_acks"): "killed", ("memory", "nack-acks", "test_acks"): "killed"}
MADE = {"memory": {"ack-dropped", "nack-acks"}}


def test_every_mutant_killed_by_every_test_that_claims_it_is_a_proof() -> None:
    assert Judgement(KILLED, MADE, CLAIMS, is_whole=False).wrong() == []


def test_a_test_that_needs_another_backend_must_be_shown_by_a_run_of_all() -> None:
    skipped = {**KILLED, ("memory", "confirmed-at-once", "test_frozen"): "skipped"}
    partial = Judgement(skipped, MADE, CLAIMS, is_whole=False)
    assert partial.unshown() == ["test_frozen"]
    assert partial.wrong() == []
    whole = Judgement(skipped, MADE, CLAIMS, is_whole=True)
    assert whole.wrong() == ["test_frozen: kills no mutant of any backend"]
    shown = {**skipped, ("rabbitmq", "confirmed-at-once", "test_frozen"): "killed"}
    assert Judgement(shown, {**MADE, "rabbitmq": {"confirmed-at-once"}}, CLAIMS, is_whole=True).wrong() == []


def test_a_survivor_is_wrong_also_where_another_test_kills_it() -> None:
    survived = {**KILLED, ("memory", "nack-acks", "test_frozen"): "survived"}
    assert Judgement(survived, MADE, CLAIMS, is_whole=False).wrong() == ["memory: nack-acks: test_frozen: survived"]


def test_a_kill_by_accident_is_none() -> None:
    accident = {**KILLED, ("memory", "nack-acks", "test_acks"): "killed by accident: KeyError: 0"}
    assert Judgement(accident, MADE, CLAIMS, is_whole=False).wrong() == [
        "memory: nack-acks: no test kills it",
        "memory: nack-acks: test_acks: killed by accident: KeyError: 0",
    ]


def test_a_mutant_that_nobody_kills_and_a_test_that_claims_none_are_wrong() -> None:
    made = {"memory": {*MADE["memory"], "lose-some"}}
    assert Judgement(KILLED, made, {**CLAIMS, "test_idle": 0}, is_whole=False).wrong() == [
        "memory: lose-some: no test kills it",
        "test_idle: claims to kill no mutant",
    ]


def test_each_backend_is_judged_by_itself() -> None:
    made = {**MADE, "kafka": {"ack-dropped"}}
    assert Judgement(KILLED, made, CLAIMS, is_whole=False).wrong() == ["kafka: ack-dropped: no test kills it"]


def test_without_a_fault_a_kill_is_wrong() -> None:
    found = {("memory", "none", "test_acks"): "survived", ("memory", "none", "test_frozen"): "killed"}
    judgement = Judgement(found, {"memory": {"none"}}, CLAIMS, is_whole=False)
    assert judgement.wrong() == ["memory: none: test_frozen: killed"]


def test_a_run_of_nothing_proves_nothing() -> None:
    assert Judgement({}, MADE, CLAIMS, is_whole=False).wrong() == ["no test ran on any mutant"]
