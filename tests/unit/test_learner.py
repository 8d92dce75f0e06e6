"""The learner: what it scores, what it learns, what it keeps, and that a restart changes nothing."""

import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from river import linear_model, optim, preprocessing

from journal.blobs import DirectoryBlobs
from journal.body import Definition, Example, Expired, Prediction, Snapshot, decode, encode
from journal.checkpoint import FoldFile
from journal.errors import Corrupt, Untrusted
from journal.log import START
from journal.memory_log import MemoryJournal
from journal.record import Draft, Kind, Record
from journal.runner import Runner
from registry.flavors import river
from registry.guard import GuardPolicy
from registry.signing import Signer, Verifier, public_path
from training.learner import Learner, LearnerSettings
from training.metrics import exact_auc, log_loss
from training.scores import CHUNK

COLUMNS = ["hour", "delay", "rate"]
PRIOR = 0.3
BASE = LearnerSettings(
    line="online",
    prior=PRIOR,
    guard=GuardPolicy(window=40, factor=1.5, minimum=20),
    snapshot_every=50,
    checkpoint_every=60,
)


def logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.AdaGrad(0.05))


def learner_in(folder: Path, journal: MemoryJournal, settings: LearnerSettings = BASE) -> Learner:
    return Learner(
        settings,
        make_model=logistic,
        flavor=river,
        blobs=DirectoryBlobs(folder / "blobs"),
        signer=Signer.open(folder / "key"),
        read_prediction=lambda offset: journal.read(0, offset - 1, 1)[0],
    )


def definition(service: str = "flights@1", columns: Sequence[str] = COLUMNS) -> Draft:
    body = Definition(service=service, request=[], views=[], columns=list(columns))
    return Draft(kind=Kind.DEFINITION, stream="definitions", id=service, body=encode(body))


def prediction(n: int, values: Sequence[Any], service: str = "flights@1") -> Draft:
    body = Prediction(
        key=f"k{n}",
        question=0,
        service=service,
        values=list(values),
        stamps=[],
        score=0.123,
        line="another",
        model="",
        snapshot=-1,
        control=0,
        degraded=False,
        build="b",
    )
    return Draft(kind=Kind.PREDICTION, stream="predictions", id=f"p{n}", body=encode(body))


def example(offset: int, outcome: bool) -> Draft:
    body = Example(key="k", prediction=offset, label=0, outcome=outcome)
    return Draft(kind=Kind.EXAMPLE, stream="examples", id=f"ex-{offset}", body=encode(body))


def expired(offset: int) -> Draft:
    body = Expired(key="k", prediction=offset, reason="no_label")
    return Draft(kind=Kind.EXPIRED, stream="examples", id=f"end-{offset}", body=encode(body))


def journal_of(questions: int, seed: int = 1) -> MemoryJournal:
    """Questions with delayed outcomes (one in ten expires), as the join leaves them in a journal."""
    rng, journal = random.Random(seed), MemoryJournal("learner")
    journal.append([definition()])
    waiting: list[tuple[int, bool]] = []
    for n in range(questions):
        hour, delay = rng.randrange(24), rng.gauss(10, 40)
        values = [hour, delay if rng.random() < 0.9 else None, rng.random()]
        (record,) = journal.append([prediction(n, values)])
        assert isinstance(record, Record)
        waiting.append((record.offset, delay + rng.gauss(0, 20) > 15))
        while len(waiting) > 15:
            offset, outcome = waiting.pop(rng.randrange(len(waiting)))
            journal.append([expired(offset) if rng.random() < 0.1 else example(offset, outcome)])
    return journal


def run(journal: MemoryJournal, runner: Runner, upto: int | None = None) -> list[Record]:
    """Let the runner read the journal to this offset, or to its end; return the snapshots that were appended."""
    appended: list[Record] = []
    while page := journal.read(0, runner.offset, 1):
        if upto is not None and page[0].offset > upto:
            break
        appended += runner.step(page[0])
    return appended


def start(folder: Path, journal: MemoryJournal, settings: LearnerSettings = BASE) -> tuple[Runner, Learner]:
    learner = learner_in(folder, journal, settings)
    return Runner(learner, FoldFile(folder / "learner.sqlite"), journal, "test"), learner


def bare(journal: MemoryJournal) -> tuple[Any, list[tuple[int, float, bool]]]:
    """The same stream through a bare River model: the final model, and (asked at, score, outcome) per example."""
    model, asked, rows = logistic(), {}, []
    for record in journal.read(0, START, 1_000_000):
        if record.kind is Kind.PREDICTION:
            pairs = zip(COLUMNS, record.data["values"], strict=True)
            x = {name: value for name, value in pairs if value is not None}
            asked[record.offset] = (record.at, model.predict_proba_one(x)[True], x)
        elif record.kind is Kind.EXAMPLE:
            at, score, x = asked[record.data["prediction"]]
            rows.append((at, score, record.data["outcome"]))
            model.learn_one(x, record.data["outcome"])
    return model, rows


def test_it_scores_its_own_number_and_learns_from_the_features_as_predicted(tmp_path: Path) -> None:
    journal = journal_of(400)
    model, rows = bare(journal)
    runner, learner = start(tmp_path, journal)
    run(journal, runner)
    runner.commit()
    kept = [row for chunk in learner.scores.rows() for row in chunk.tolist()]
    assert [(at, score, outcome) for _, at, score, _, outcome in kept] == rows
    answered = {record.offset: record.at for record in journal.read(0, -1, 10_000) if record.kind is Kind.PREDICTION}
    assert all(answered[prediction] == at and served == 0.123 for prediction, at, _, served, _ in kept)
    assert river.digest(learner.model) == river.digest(model)
    counts = learner.counts()
    assert counts["questions"] == 400 == counts["examples"] + counts["expired"] + counts["pending"]
    assert counts["pending"] == 15
    assert counts["expired"] > 10
    runner.close()


def test_a_report_is_exact_and_can_start_late(tmp_path: Path) -> None:
    journal = journal_of(1_300)
    rows = bare(journal)[1]
    assert len(rows) > 2 * CHUNK
    runner, learner = start(tmp_path, journal)
    run(journal, runner, upto=1_500)
    runner.commit()
    run(journal, runner)
    middle = rows[700][0]
    for since, chosen in [(None, rows), (middle, [row for row in rows if row[0] >= middle]), (rows[-1][0] + 10**9, [])]:
        report = learner.report(since)
        assert report["examples"] == len(chosen)
        scores = np.array([score for _, score, _ in chosen])
        assert report["auc"] == exact_auc(scores, np.array([outcome for _, _, outcome in chosen], dtype=bool))
        if chosen:
            mean = math.fsum(log_loss(score, outcome) for _, score, outcome in chosen) / len(chosen)
            assert report["log_loss"] == pytest.approx(mean, rel=1e-12)
            assert sum(row[0] for row in report["calibration"]) == len(chosen)
    assert learner.report()["log_loss"] == learner.progress()["log_loss"]
    assert learner.report(10**18)["log_loss"] is None
    served = learner.report_served()
    assert (served["examples"], served["auc"]) == (len(rows), 0.5)
    late = sum(outcome for _, _, outcome in rows) / len(rows)
    assert served["log_loss"] == pytest.approx(-late * math.log(0.123) - (1 - late) * math.log(1 - 0.123), rel=1e-9)
    runner.close()


def test_snapshots_are_signed_stored_and_come_every_so_many_examples(tmp_path: Path) -> None:
    journal = journal_of(400)
    runner, learner = start(tmp_path, journal)
    records = run(journal, runner)
    examples = learner.counts()["examples"]
    assert [record.id for record in records] == [f"online-{n}" for n in range(50, examples + 1, 50)]
    for record in records:
        snapshot = decode(record.body, Snapshot)
        assert (snapshot.published, snapshot.reasons, snapshot.family) == (True, [], "river")
        data = DirectoryBlobs(tmp_path / "blobs").get(snapshot.blob)
        Verifier.open(public_path(tmp_path / "key")).verify(
            snapshot.signature, snapshot.line, snapshot.family, snapshot.model, snapshot.blob
        )
        assert river.digest(river.load(data)) == snapshot.model
        assert snapshot.guard["examples"] == 40
        assert snapshot.guard["log_loss"] < snapshot.guard["limit"] == snapshot.guard["prior_log_loss"] * 1.5
    runner.close()


def test_the_guards_numbers_are_of_the_latest_examples(tmp_path: Path) -> None:
    journal = journal_of(150)
    rows = bare(journal)[1][:50][-40:]
    runner, _ = start(tmp_path, journal)
    snapshot = decode(run(journal, runner)[0].body, Snapshot)
    own = math.fsum(log_loss(score, outcome) for _, score, outcome in rows) / 40
    prior = math.fsum(log_loss(PRIOR, outcome) for _, _, outcome in rows) / 40
    assert snapshot.guard["log_loss"] == pytest.approx(own, rel=1e-12)
    assert snapshot.guard["prior_log_loss"] == pytest.approx(prior, rel=1e-12)
    runner.close()


def test_a_state_that_fails_the_guard_is_recorded_with_its_reasons_and_not_published(tmp_path: Path) -> None:
    settings = LearnerSettings(
        line="online", prior=PRIOR, guard=GuardPolicy(window=40, factor=0.01), snapshot_every=50, checkpoint_every=60
    )
    journal = journal_of(150)
    runner, learner = start(tmp_path, journal, settings)
    snapshot = decode(run(journal, runner)[0].body, Snapshot)
    assert (snapshot.published, snapshot.blob, snapshot.signature) == (False, "", "")
    assert "0.01 times the prior's" in snapshot.reasons[0]
    assert learner.counts()["published"] == 0 < learner.counts()["held_back"]
    assert not any(path.is_file() for path in (tmp_path / "blobs").rglob("*"))
    runner.close()


def test_a_model_that_is_not_finite_is_held_back(tmp_path: Path) -> None:
    journal = journal_of(150)
    runner, learner = start(tmp_path, journal)
    run(journal, runner, upto=60)
    learner.model["LogisticRegression"].intercept = math.nan
    snapshot = decode(run(journal, runner)[0].body, Snapshot)
    assert not snapshot.published
    assert snapshot.reasons[0] == "A parameter of the model is infinite or not a number."
    assert snapshot.reasons[1].endswith("answers are infinite or not a number.")
    runner.close()


def test_predictions_of_another_service_teach_nothing(tmp_path: Path) -> None:
    journal = MemoryJournal("learner")
    drafts = [
        prediction(0, [1, 2.0, 0.5]),
        definition(),
        definition("flights@2", ["hour"]),
        prediction(1, [1], "flights@2"),
        example(3, True),
        prediction(2, [1, 2.0, 0.5]),
        example(5, True),
    ]
    journal.append(drafts)
    runner, learner = start(tmp_path, journal)
    run(journal, runner)
    counts = learner.counts()
    assert (counts["foreign"], counts["questions"], counts["examples"], counts["pending"]) == (2, 1, 1, 0)
    runner.close()


def outcome_of(learner: Learner, journal: MemoryJournal) -> tuple[Any, ...]:
    contents = [(r.kind, r.id, r.at, r.body) for r in journal.read(0, START, 10**6)]
    return learner.digest(), learner.report(), learner.counts(), contents


def test_a_crash_after_any_commit_changes_nothing(tmp_path: Path) -> None:
    """Die every 37 records, having committed or not; start again from the last blob; the journal ends the same."""
    straight = journal_of(300)
    whole, learner = start(tmp_path / "straight", straight)
    run(straight, whole)
    expected = outcome_of(learner, straight)
    whole.close()

    journal = journal_of(300)
    (tmp_path / "crashing").mkdir()
    shutil.copy(tmp_path / "straight" / "key", tmp_path / "crashing" / "key")
    resumed_at = []
    for turn, upto in enumerate(range(36, 10_000, 37)):
        runner, learner = start(tmp_path / "crashing", journal)
        resumed_at.append(runner.offset)
        run(journal, runner, upto)
        if turn % 2:
            runner.commit()
            assert learner.resume_offset is not None
            assert learner.resume_offset <= runner.offset
        runner.close()
        if upto > journal.end():
            break
    assert len(set(resumed_at)) > 3
    assert resumed_at == sorted(resumed_at)
    runner, learner = start(tmp_path / "crashing", journal)
    run(journal, runner)
    assert outcome_of(learner, journal) == expected
    runner.close()


def test_blobs_are_written_every_so_many_examples_and_never_between(tmp_path: Path) -> None:
    journal = journal_of(300)
    runner, learner = start(tmp_path, journal)
    places = []
    for upto in range(9, 10_000, 10):
        run(journal, runner, upto)
        runner.commit()
        places.append((learner.resume_offset, learner.counts()["examples"]))
        if upto > journal.end():
            break
    assert places[0][0] == START
    written = [examples for n, (offset, examples) in enumerate(places) if n and offset != places[n - 1][0]]
    assert all(60 <= after - before < 70 for before, after in pairwise([0, *written]))
    assert learner.counts()["examples"] - written[-1] < 60
    runner.close()


def saved(folder: Path) -> tuple[MemoryJournal, FoldFile]:
    journal = journal_of(200)
    runner, _ = start(folder, journal)
    run(journal, runner)
    runner.commit()
    runner.close()
    return journal, FoldFile(folder / "learner.sqlite")


def test_a_state_row_that_was_moved_or_comes_from_another_line_is_refused(tmp_path: Path) -> None:
    journal, file = saved(tmp_path)
    row = file.get("learner", b"state")
    assert row is not None
    offset, address, signature = msgspec.msgpack.decode(row)
    older = DirectoryBlobs(tmp_path / "blobs").put(b"another state")
    forged = [offset - 1, address, signature], [offset, older, signature], [offset, address, "00" * 64], [offset]
    for changed in forged:
        file.put("learner", [(b"state", msgspec.msgpack.encode(changed))])
        with pytest.raises(Untrusted, match=r"does not hold|is no state's row"):
            learner_in(tmp_path, journal).load(file)
    file.put("learner", [(b"state", row)])
    learner_in(tmp_path, journal).load(file)
    other = LearnerSettings(line="other", prior=0.5, guard=BASE.guard, snapshot_every=50, checkpoint_every=60)
    with pytest.raises(Untrusted, match="does not hold"):
        learner_in(tmp_path, journal, other).load(file)
    (tmp_path / "key").unlink()
    with pytest.raises(Untrusted, match="does not hold"):
        learner_in(tmp_path, journal).load(file)
    file.close()


def test_a_flipped_byte_in_the_blob_is_found_before_anything_is_unpickled(tmp_path: Path) -> None:
    journal, file = saved(tmp_path)
    for path in (tmp_path / "blobs").rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    with pytest.raises(Corrupt, match="blob"):
        learner_in(tmp_path, journal).load(file)
    file.close()


def test_missing_scores_are_an_error_and_later_ones_are_forgotten(tmp_path: Path) -> None:
    journal = journal_of(800)
    runner, learner = start(tmp_path, journal)
    run(journal, runner)
    runner.commit()
    report = learner.report()
    runner.close()
    file = FoldFile(tmp_path / "learner.sqlite")
    (chunk,) = file.scan("scores")
    file.put("scores", [((7).to_bytes(8), chunk[1])])
    again = learner_in(tmp_path, journal)
    again.load(file)
    assert again.report()["examples"] == again.counts()["examples"]
    assert again.counts()["examples"] <= report["examples"]
    file.delete("scores", [chunk[0]])
    with pytest.raises(Corrupt, match="does not hold the"):
        learner_in(tmp_path, journal).load(file)
    file.close()


def digest_after(folder: Path, questions: int) -> str:
    journal = journal_of(questions)
    runner, learner = start(folder, journal)
    run(journal, runner)
    runner.close()
    return learner.digest()


@pytest.mark.slow
def test_the_digest_is_the_same_under_every_hash_seed(tmp_path: Path) -> None:
    script = f"""
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("learner_tests", {__file__!r})
tests = sys.modules["learner_tests"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
print(tests.digest_after(pathlib.Path(sys.argv[1]), 200))
"""
    digests = {digest_after(tmp_path / "here", 200)}
    for seed in ("0", "1", "42"):
        (tmp_path / seed).mkdir()
        printed = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(printed.stdout.strip())
    assert len(digests) == 1
    assert digests != {digest_after(tmp_path / "longer", 201)}
