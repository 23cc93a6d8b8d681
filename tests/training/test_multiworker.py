"""Real processes on this machine stand for machines; they differ in nothing but their addresses."""

from __future__ import annotations

import json
import pickle
import re

import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.errors import UserError
from alexnet_keras.training import multiworker
from alexnet_keras.training.multiworker import (
    WORKER_MISSING,
    Cluster,
    WorkerLost,
    check_same,
    cluster_of,
    from_chief,
    is_chief,
    lost_workers,
    worker_strategy,
)
from work_together import COUNT, UNREADABLE, strange_checkpoint
from workers import Workers, free_addresses, kubeflow, slurm, slurm_addresses, tf_config

ONE = tf.distribute.get_strategy()
ADDRESSES = ("a:1", "b:22", "c:333")


class Runs:
    """One process, and the same run on three workers and on two, the latter also interrupted.

    Attributes:
        one, two, three: uninterrupted.
        lone: a worker whose fellow does not come.
        killed: two workers, of which the second is killed in step 2, counted from 0.
        terminated: the same started again, and the second gets SIGTERM in step 3.
        resumed: the same started again.
    """

    def __init__(self, folder):
        self.folder = folder
        self.addresses, self.ended = {}, {}
        # One after the other: each process takes a gigabyte.
        lone = self.start("lone", free_addresses(2), tf_config, {"wait_seconds": 2}, absent=[0])
        self.wait(self.start("one"), lone)
        self.wait(self.start("three", free_addresses(3), kubeflow, {"share": True}))
        self.wait(self.start("two", slurm_addresses(2), slurm))
        for name, of_second in (
            ("killed", {"killed": {"step": 2, "delay": 0.02}}),
            ("terminated", {"terminated": {"step": 3}}),
            ("resumed", {}),
        ):
            self.wait(self.start(name, free_addresses(2), tf_config, of_rank={1: of_second}))

    def start(self, name, *args, **keywords):
        """The interrupted ones share a folder of checkpoints."""
        output = self.folder / name
        self.addresses[name] = args[0] if args else []
        shared = "interrupted" if name in ("killed", "terminated", "resumed") else name
        return Workers(output, self.folder / shared, *args, **keywords)

    def wait(self, *started):
        for workers in started:
            self.ended[workers.output.name] = workers.wait()

    def result(self, name, rank=0):
        with np.load(self.folder / name / f"result-{rank}.npz") as members:
            return {key: members[key] for key in members.files}

    def weights(self, name, rank=0):
        return [v for key, v in self.result(name, rank).items() if key.startswith("arr_")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("name, count", [("one", 1), ("two", 2), ("three", 3), ("resumed", 2)])
def test_runs_end(runs, name, count):
    ended = runs.ended[name]
    assert {rank: end.code for rank, end in ended.items()} == dict.fromkeys(range(count), 0), ended


@pytest.mark.parametrize("name, count", [("two", 2), ("three", 3)])
def test_several_workers_end_with_the_weights_of_one_process(runs, name, count):
    """Dropout, augmentation, mixtures, batch normalization, averages and clipping are all on."""
    expected = runs.weights("one")
    moved = max(abs(value).max() for value in expected)
    assert len(expected) > 40 and moved > 0.1
    for rank in range(count):
        found = runs.weights(name, rank)
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)
        watched = runs.result(name, rank)["watched"]
        np.testing.assert_allclose(watched, runs.result("one")["watched"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name, count", [("one", 1), ("two", 2), ("three", 3)])
def test_each_example_is_seen_once_an_epoch(runs, name, count):
    shares = [runs.result(name, rank)["seen"] for rank in range(count)]
    steps, examples = np.concatenate(shares, axis=1)
    readable = sorted({*range(COUNT)} - {UNREADABLE})
    for epoch in range(2):
        assert sorted(examples[steps // 3 == epoch]) == readable
    # Whole batches are shared out evenly, but for the one that cannot be read.
    for share in shares:
        assert 48 // count - 1 <= (share[0] == 0).sum() <= 48 // count


def test_only_the_chief_writes(runs):
    written = {path.name for path in (runs.folder / "three").iterdir()}
    others = {f"{what}-{rank}" for what in ("log", "result", "shared") for rank in range(3)}
    left = {name for name in written if name.partition(".")[0] not in others}
    assert left == {"checkpoints", "history.csv", "tensorboard"}


def test_what_the_chief_read_comes_to_all_bit_for_bit(runs):
    expected = strange_checkpoint()
    for rank in range(3):
        found = pickle.loads((runs.folder / "three" / f"shared-{rank}.pickle").read_bytes())
        assert (found.step, found.state) == (expected.step, expected.state)
        assert list(found.arrays) == list(expected.arrays)
        for name, array in expected.arrays.items():
            assert found.arrays[name].dtype == array.dtype, name
            assert found.arrays[name].shape == array.shape, name
            assert found.arrays[name].tobytes() == array.tobytes(), name


def test_workers_with_other_photographs_are_refused_on_all(runs):
    address = runs.addresses["three"][1]
    for rank in range(3):
        assert str(runs.result("three", rank)["different"]) == (
            f"Worker 1 ({address}) has other photographs than worker 0; give the same "
            "photographs and options to all workers."
        )


def test_a_worker_that_stays_alone_ends_with_a_sentence(runs):
    end = runs.ended["lone"][1]
    assert end.code == WORKER_MISSING
    last = end.said.splitlines()[-1]
    assert re.search(r"Worker 1 of .* has waited 2 s .*--worker-timeout if need be\.$", last)


def test_a_killed_worker_ends_the_others_with_a_sentence(runs):
    chief, killed = (runs.ended["killed"][rank] for rank in range(2))
    assert (chief.code, killed.code) == (WORKER_MISSING, -9)
    # A second when nothing else runs here; the limit is for a machine at work.
    assert chief.at - killed.at < 30
    assert chief.said.splitlines()[-1] == (
        f"Error: Worker 1 ({runs.addresses['killed'][1]}) is lost: it was stopped, has crashed or "
        "cannot be reached, and without it worker 0 ends too; see what it said last, and start "
        "all workers again, which go on from the last checkpoint."
    )
    assert "Traceback" not in chief.said


def test_sigterm_to_one_stops_all_after_the_same_step(runs):
    for rank in range(2):
        assert runs.ended["terminated"][rank].code == 143
        assert runs.result("terminated", rank)["step"] == 5
    # Outside training, too, SIGTERM does what it always does, though TensorFlow takes it over.
    assert all(runs.result("two", rank)["terminates"] for rank in range(2))


def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(runs):
    assert 0 < runs.result("terminated", 1)["first_step"] <= 3
    for rank in range(2):
        assert runs.result("resumed", rank)["first_step"] == 5
        for whole, resumed in zip(
            runs.weights("two", rank), runs.weights("resumed", rank), strict=True
        ):
            np.testing.assert_array_equal(resumed, whole)


def config(jobs, job="worker", index=0):
    return json.dumps({"cluster": jobs, "task": {"type": job, "index": index}})


WORKERS = {"worker": [*ADDRESSES]}


@pytest.mark.parametrize("rank", range(3))
def test_launchers_name_the_workers_in_order(rank):
    cluster = cluster_of(tf_config(ADDRESSES, rank))
    assert (cluster.addresses, cluster.rank) == (ADDRESSES, rank)
    cluster = cluster_of(kubeflow(ADDRESSES, rank))
    assert (cluster.addresses, cluster.rank) == (ADDRESSES, rank)
    assert cluster.job == ("worker" if rank else "chief")
    # An index may be text; TF_CONFIG goes before SLURM.
    text = {"TF_CONFIG": config(WORKERS, index=str(rank)), **slurm(["localhost:12000"], 0)}
    assert cluster_of(text).rank == rank


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "TF_CONFIG is no JSON"),
        ("[1]", "does not name a cluster and a task"),
        ('"worker"', "does not name a cluster and a task"),
        ("{}", "does not name a cluster and a task"),
        ('{"cluster": {}, "task": {"type": "worker", "index": 0}}', "does not name a cluster"),
        ('{"cluster": {"worker": ["a:1"]}}', "does not name a cluster and a task"),
        ('{"sparseCluster": {"worker": {"0": "a:1"}}, "task": {}}', "does not name a cluster"),
        (config({**WORKERS, "ps": ["p:1"]}), "tasks of the type ps"),
        (config(WORKERS, "evaluator"), "tasks of the type evaluator"),
        (config({**WORKERS, "master": ["m:1"], "ps": ["p:1"]}), "the type master, ps"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {}}', "tasks of the type None"),
        (config({"worker": "a:1"}), "no list of HOST:PORT for the type worker"),
        (config({"worker": {"0": "a:1"}}), "no list of HOST:PORT for the type worker"),
        (config({"worker": []}), "no list of HOST:PORT for the type worker"),
        (config({"worker": ["a"]}), "no list of HOST:PORT"),
        (config({"worker": ["a:b"]}), "no list of HOST:PORT"),
        (config({"worker": [7]}), "no list of HOST:PORT"),
        (config({"worker": ["a:1", "a:1"]}), "two workers the same address"),
        (config({"worker": ["a:1"], "chief": ["a:1"]}), "two workers the same address"),
        (config({"worker": ["a:1"], "chief": ["b:1", "c:1"]}), "several chiefs"),
        (config(WORKERS, index=3), "the task worker 3, which its cluster lacks"),
        (config(WORKERS, index=-1), "the task worker -1, which"),
        (config(WORKERS, index=1.5), "the task worker 1.5, which"),
        (config(WORKERS, index=None), "the task worker None, which"),
        (config(WORKERS, "chief"), "the task chief 0, which"),
    ],
)
def test_what_tf_config_must_not_be(text, words):
    with pytest.raises(UserError, match=words) as caught:
        cluster_of({"TF_CONFIG": text})
    assert str(caught.value).endswith(f"received {text}") and "\n" not in str(caught.value)


def step(nodes, tasks, rank, **more):
    return {
        "SLURM_JOB_ID": "1007",
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_PROCID": str(rank),
        **more,
    }


def test_slurm_nodes_keep_their_order():
    """TensorFlow's own resolver would put n10 before n9."""
    cluster = cluster_of(step("n[9-11]", "1(x3)", 1, SLURMD_NODENAME="n10"))
    assert cluster.addresses == ("n9:12112", "n10:12112", "n11:12112")
    assert cluster.rank == 1


def test_slurm_tasks_on_one_node_have_ports_of_their_own():
    cluster = cluster_of(step("n[01,03],x", "2(x2),1", 3))
    assert cluster.addresses == ("n01:12112", "n01:12113", "n03:12112", "n03:12113", "x:12112")
    assert cluster.rank == 3
    other = cluster_of(step("n01", "16", 0, SLURM_JOB_ID="1008"))
    assert not {*other.addresses} & {*cluster.addresses}


@pytest.mark.parametrize(
    "environment, words",
    [
        (step("n[1-2]", "1(x2)", 2), r"cannot be read \(IndexError"),
        (step("n[1-2]", "1", 0), r"cannot be read \(ValueError"),
        (step("n[1-2", "1(x2)", 0), r"cannot be read \(ValueError"),
        (step("n[1-2]", "two", 0), r"cannot be read \(ValueError"),
        ({"SLURM_STEP_NODELIST": "n1"}, r"cannot be read \(KeyError: 'SLURM_STEP_TASKS_PER_NODE'"),
        (
            step("n[1-2]", "2(x2)", 1, SLURMD_NODENAME="n2"),
            "runs task 1 on n2, .* on n1; give srun --distribution=block",
        ),
        ({}, "finds no workers in the environment; start it with srun, in a Kubeflow TFJob"),
        ({"TF_CONFIG": ""}, "finds no workers"),
        ({"SLURM_JOB_ID": "7"}, r"\(this is a SLURM job, but no step of it\); start it with srun"),
    ],
)
def test_what_cannot_be_started(environment, words):
    with pytest.raises(UserError, match=words) as caught:
        cluster_of(environment)
    assert "\n" not in str(caught.value)


def test_a_batch_that_cannot_be_shared_out_evenly_is_refused(monkeypatch):
    for name, value in tf_config(ADDRESSES, 0).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="batch of 50 .* 3 workers with 1 devices .* 3 divides"):
        worker_strategy(50)


@pytest.mark.parametrize("package, version", [("tensorflow", "2.22.1"), ("keras", "3.150.0")])
def test_untested_versions_are_refused(monkeypatch, package, version):
    monkeypatch.setattr(multiworker, "TESTED", {**multiworker.TESTED, package: "2.2"})
    with pytest.raises(UserError, match=f"{package} .* is installed; install {package} 2.2"):
        worker_strategy(48)
    monkeypatch.undo()
    real = multiworker.metadata.version
    monkeypatch.setattr(
        multiworker.metadata, "version", lambda name: version if name == package else real(name)
    )
    with pytest.raises(UserError, match=f"{package} {version} is installed"):
        worker_strategy(48)


def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(multiworker.sys, "platform", "darwin")
    with pytest.raises(UserError, match="Linux only, and this is darwin"):
        worker_strategy(48)


def test_one_process_needs_none_of_this():
    assert is_chief(ONE)
    checkpoint = strange_checkpoint()
    assert from_chief(ONE, checkpoint) is checkpoint
    check_same(ONE, {"seed": 1})
    with pytest.raises(tf.errors.UnavailableError), lost_workers(ONE):
        raise tf.errors.UnavailableError(None, None, "Collective ops is aborted")


RESET = "Collective ops is aborted by: recvmsg:Connection reset by peer\nAdditional GRPC error "
REMOTE = "information from remote target /job:worker/replica:0/task:{} while calling /x/RecvBuf"
UNHEALTHY = (
    "Collective ops is aborted by: Error reported from /job:worker/task:1: The following tasks are "
    "unhealthy (stopped sending heartbeats):\n/job:worker/replica:0/task:1\nThe tasks have crashed."
)
DEVICE = "{{function_node device_/job:worker/replica:0/task:0/device:CPU:0}} "


@pytest.mark.parametrize(
    "message, named",
    [
        (RESET + REMOTE.format(1), "Worker 2 (c:333)"),
        # The first of those that pass it on.
        (RESET + REMOTE.format(1) + "\n" + REMOTE.format(0), "Worker 2 (c:333)"),
        (DEVICE + UNHEALTHY, "Worker 2 (c:333)"),
        (RESET + REMOTE.format(0).replace("worker", "chief"), "Worker 0 (a:1)"),
        ("Collective ops is aborted by: Deadline Exceeded", "Another worker"),
        (DEVICE + "Collective ops is aborted by: Deadline Exceeded", "Another worker"),
    ],
)
def test_the_worker_that_is_lost_is_named(message, named):
    """Messages as TensorFlow gave them."""
    cluster = Cluster({"chief": ("a:1",), "worker": ("b:22", "c:333")}, "worker", 0)
    sentence = multiworker._who_is_lost(cluster, message)
    assert sentence.startswith(f"{named} is lost")
    assert multiworker._FROM_OTHERS.search(message)


def test_errors_of_ones_own_are_no_loss_of_others():
    for message in ("OOM when allocating tensor", "Failed to open /job/worker/file", "HTTP 503"):
        assert not multiworker._FROM_OTHERS.search(message)
    assert issubclass(WorkerLost, UserError) and WorkerLost.exit_code == 138
