"""Facts about environments in worker processes: what fails is named, replaced and ended."""

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_family import FAULTS, FaultyFamily, MixedFamily
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from noisy_walk import NoisyWalk
from numpy.testing import assert_array_equal
from stable_baselines3.common.vec_env import DummyVecEnv

from mtrl.envs.contexts.family import ContextFamily
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.workers import crew
from mtrl.envs.workers.sb3_env import WorkerVecEnv
from mtrl.envs.workers.vector_env import WorkerSettings, WorkerVectorEnv
from mtrl.errors import UsageError, WorkerError

PATIENT = WorkerSettings(timeout=60.0)
STILL = np.zeros(1, int)


@pytest.fixture(scope="module", autouse=True)
def _quick_starts() -> Iterator[None]:
    """Start the server from which workers are forked, and spare them the import of pytest."""
    with pytest.MonkeyPatch.context() as patch:
        # Python imports the main module in every worker, since what is sent may be defined there.
        patch.setattr(sys.modules["__main__"], "__spec__", None)
        patch.delattr(sys.modules["__main__"], "__file__", raising=False)
        envs = WorkerVectorEnv(FaultyFamily(), ["train"])
        envs.reset()
        envs.close()
        yield


def make(*faults: str, settings: WorkerSettings = PATIENT, at: int = 2) -> WorkerVectorEnv:
    family = FaultyFamily()
    return WorkerVectorEnv(family, [family.task(fault, at) for fault in faults], settings=settings)


@pytest.fixture
def opened() -> Iterator[list[WorkerVectorEnv]]:
    envs: list[WorkerVectorEnv] = []
    yield envs
    for env in envs:
        env.close()


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    # A process that has ended stays in the table until its parent, or who adopted it, looks.
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def assert_gone(pids: list[int | None], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if pid is not None and running(pid)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.02)


def plain(value: Any) -> Any:
    """Return nested infos as what `assert_equal` compares: lists, numbers and strings."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()], str(value.dtype), value.shape
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def test_trajectories_are_those_of_sync_vector_env(opened: list[WorkerVectorEnv]) -> None:
    family = NoisyWalk()
    first, second, third = family.sample(3, np.random.default_rng(0), "train")
    sources = [first, "train", "test"]
    ours = WorkerVectorEnv(family, sources, seed=5)
    opened.append(ours)
    makers = [lambda source=source: family.make(source) for source in sources]
    theirs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    rng = np.random.default_rng(1)

    def step(n: int) -> np.ndarray:
        ended = np.zeros(2, int)
        for action in rng.integers(-1, 2, (n, 3)):
            mine, peer = ours.step(action), theirs.step(action)
            assert plain(mine) == plain(peer)
            assert [task.id for task in ours.tasks] == mine[4]["task_id"].tolist()
            ended += mine[2].sum(), mine[3].sum()
        return ended

    with pytest.raises(UsageError, match=r"call reset\(\)"):
        _ = ours.tasks
    assert plain(ours.reset()) == plain(theirs.reset(seed=5))
    assert (step(60) > 3).all()
    options = {"task": second}
    assert plain(ours.reset(options=options)) == plain(theirs.reset(options=options))
    step(15)
    assert plain(ours.reset(seed=[9, 8, None])) == plain(theirs.reset(seed=[9, 8, None]))
    assert ours.np_random_seed == theirs.get_attr("np_random_seed")
    assert ours.call("set_task_source", third) == theirs.call("set_task_source", third)
    step(15)
    assert set(ours.step(STILL.repeat(3))[4]["task_id"]) == {third.id}
    assert ours.tasks == list(ours.get_attr("task")) == [third] * 3
    for name in ("observation_space", "action_space", "single_action_space", "num_envs"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_tasks_of_an_environment_that_others_wrote(opened: list[WorkerVectorEnv]) -> None:
    family = ContextFamily(name="pole", env="CartPole-v1", ranges={"gravity": (5.0, 15.0)})
    first, second = family.sample(2, np.random.default_rng(0), "train")
    ours = WorkerVectorEnv(family, [first, "test"])
    opened.append(ours)
    makers = [lambda: family.make(first), lambda: family.make("test")]
    theirs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    assert plain(ours.reset(seed=1)) == plain(theirs.reset(seed=1))
    for action in np.random.default_rng(2).integers(0, 2, (60, 2)):
        assert plain(ours.step(action)) == plain(theirs.step(action))
    options = {"task": second}
    assert plain(ours.reset(options=options)) == plain(theirs.reset(options=options))
    os.kill(ours.pids[1] or 0, signal.SIGKILL)
    ours.step(STILL.repeat(2))
    assert ours.tasks[0] == second
    assert ours.tasks[1].split == "test"


def test_spaces_that_do_not_fit_in_one_array(opened: list[WorkerVectorEnv]) -> None:
    family = MixedFamily()
    ours, theirs = WorkerVectorEnv(family, ["train"] * 2), family.make_vec(["train"] * 2)
    opened.append(ours)
    assert plain(ours.reset(seed=1)) == plain(theirs.reset(seed=1))
    ours.action_space.seed(0)
    for _ in range(7):
        action = ours.action_space.sample()
        assert plain(ours.step(action)) == plain(theirs.step(action))
    os.kill(ours.pids[1] or 0, signal.SIGKILL)
    last = theirs.step(action)[0]
    ours.step(action)
    *_, info = ours.reset()
    assert "worker_restarted" not in info
    assert len(last["path"]) == 2


# Gymnasium warns on top of the error that it raises.
@pytest.mark.filterwarnings("ignore:.*(Received the following error|Traceback|Raising the last)")
def test_what_fails_is_replaced_and_the_rest_goes_on(
    opened: list[WorkerVectorEnv], caplog: pytest.LogCaptureFixture
) -> None:
    causes = {
        "raise": "ValueError: bad luck (faulty_family.py:",
        "exit": "exited with code 3",
        "sys.exit": "SystemExit: enough",
        "kill": "killed by signal 9",
        "nan-observation": "returned an observation that is not finite: [ 2. nan]",
        "infinite-reward": "returned a reward that is not finite: inf",
        "unpicklable-error": "LockedError: locked",
        "unpicklable-info": "cannot pickle '_thread.lock' object",
    }
    faults, n = [*causes, "none"], len(causes)
    envs = make(*faults)
    opened.append(envs)
    family = envs.family
    peer = family.make_vec([family.task(fault) for fault in faults])
    first, _ = envs.reset(seed=0)
    peer.reset(seed=0)
    actions = np.ones(n + 1, int)
    before, *_ = envs.step(actions)
    assert_array_equal(before, peer.step(actions)[0])
    pids = envs.pids
    with caplog.at_level(logging.WARNING):
        obs, reward, terminated, truncated, info = envs.step(actions)

    is_lost = np.arange(n + 1) < n
    assert_array_equal(truncated, is_lost)
    assert_array_equal(terminated, False)
    assert_array_equal(reward, ~is_lost)
    # The lost episodes end where they were last seen, and others begin that are not those again.
    assert_array_equal(np.stack(info["final_obs"][:n]), before[:n])
    assert info["final_info"]["task_id"][:n].tolist() == info["task_id"][:n].tolist()
    assert_array_equal(obs[:n, 0], 0)
    assert (obs[:n, 1] != first[:n, 1]).all()
    for key in ("_final_obs", "_final_info", "_worker_restarted"):
        assert_array_equal(info[key], is_lost)
    for fault, cause in zip(causes, info["worker_restarted"], strict=False):
        assert causes[fault] in cause
    assert envs.restarts == [1] * n + [0]
    assert [new == old for new, old in zip(envs.pids, pids, strict=True)] == [False] * n + [True]
    assert_gone(pids[:n])
    assert len(caplog.records) == n
    assert "restart 1 of 3" in caplog.text and "Traceback" in caplog.text

    # The other environment noticed nothing, and the new ones live on until they fail again.
    peer = family.make_vec([family.task("none")])
    peer.reset(seed=n)
    for _ in range(2):
        expected = peer.step(STILL + 1)
    assert_array_equal(obs[n], expected[0][0])
    after, *_, info = envs.step(actions)
    assert_array_equal(after[n], peer.step(STILL + 1)[0][0])
    assert "worker_restarted" not in info


def test_a_restart_is_reproducible(opened: list[WorkerVectorEnv]) -> None:
    seen = []
    for _ in range(2):
        envs = make("raise")
        opened.append(envs)
        seen.append([envs.reset(seed=3)[0]] + [envs.step(STILL)[0] for _ in range(3)])
    assert_array_equal(*seen)


def test_one_failure_too_many_is_an_error_that_names_everything(
    opened: list[WorkerVectorEnv],
) -> None:
    envs = make("none", "raise", settings=WorkerSettings(max_restarts=1))
    opened.append(envs)
    task = envs.family.task("raise")
    envs.reset(seed=0)
    for _ in range(3):
        envs.step(STILL.repeat(2))
    pids = envs.pids
    with pytest.raises(WorkerError) as caught:
        envs.step(STILL.repeat(2))
    message, (notes,) = str(caught.value), caught.value.__notes__
    params = f"{{'at': 2.0, 'fault': {float(FAULTS.index('raise'))}}}"
    for part in (
        "environment 1 of task family 'faulty'",
        f"task {task.id} {params}",
        f"in worker process {pids[1]}",
        "ValueError: bad luck",
        "restarted 1 times",
        "raise max_restarts",
    ):
        assert part in message
    assert "Traceback" in notes and "in _fail" in notes
    assert caught.value.exit_code == 1
    assert_gone(pids)
    with pytest.raises(UsageError, match="call reset"):
        envs.step(STILL.repeat(2))
    with pytest.raises(UsageError, match="are closed"):
        envs.reset()


@pytest.mark.parametrize(
    ("fault", "cause"),
    [("raise-in-make", "OSError: no licence"), ("exit-in-make", "exited with code 4")],
)
def test_an_environment_that_cannot_be_made_is_an_error_of_the_first_reset(
    fault: str, cause: str
) -> None:
    envs = make(fault, settings=WorkerSettings(max_restarts=1))
    with pytest.raises(WorkerError, match=cause):
        envs.reset()
    assert envs.restarts == [1]


def test_an_episode_that_ended_by_itself_is_reported_as_it_was(
    opened: list[WorkerVectorEnv],
) -> None:
    envs = make("raise-in-reset")
    opened.append(envs)
    envs.reset(seed=0)
    for _ in range(3):
        envs.step(STILL)
    obs, reward, terminated, truncated, info = envs.step(STILL + 1)
    assert (reward[0], terminated[0], truncated[0]) == (1.0, False, True)
    assert info["final_obs"][0][0] == 4
    assert "cannot begin again" in info["worker_restarted"][0]
    assert obs[0, 0] == 0


def test_hanging_and_stopped_workers_are_replaced_after_the_timeout() -> None:
    envs = make("hang", "none", "none", settings=WorkerSettings(timeout=2.0, max_restarts=1))
    envs.reset(seed=0)
    envs.step(STILL.repeat(3))
    pids = envs.pids
    assert pids[1] is not None
    os.kill(pids[1], signal.SIGSTOP)
    *_, truncated, info = envs.step(STILL.repeat(3))
    cause = "gave no answer to step within 2 s"
    assert info["worker_restarted"].tolist() == [cause, cause, None]
    assert truncated.tolist() == [True, True, False]
    assert_gone(pids[:2])
    envs.step(STILL.repeat(3))
    with pytest.raises(WorkerError, match=cause):
        envs.step(STILL.repeat(3))
    assert_gone(envs.pids)


def test_a_worker_killed_from_outside_is_replaced(opened: list[WorkerVectorEnv]) -> None:
    envs = make("none", "none")
    opened.append(envs)
    envs.reset(seed=0)
    for doing in ("step", "reset", "call"):
        victim = envs.pids[0]
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        if doing == "step":
            assert_gone([victim])  # in the others, it may notice the signal only later
        if doing == "reset":
            *_, info = envs.reset()
        else:
            if doing == "call":
                # There is nothing to return, and the episode is lost only in the next step.
                with pytest.raises(WorkerError, match="killed by signal 9"):
                    envs.call("colour")
            *_, info = envs.step(STILL.repeat(2))
        assert info["worker_restarted"].tolist() == ["killed by signal 9 (Killed)", None]
    assert envs.restarts == [3, 0]


def test_processes_that_an_environment_started_end_with_it(opened: list[WorkerVectorEnv]) -> None:
    envs = make("child")
    opened.append(envs)
    envs.reset()
    for how in ("killed", "closed"):
        envs.step(STILL)
        envs.step(STILL)
        (child,) = envs.call("child_pid")
        assert running(child)
        if how == "killed":
            os.kill(envs.pids[0] or 0, signal.SIGKILL)
            assert "worker_restarted" in envs.step(STILL)[4]
        else:
            envs.close()
        assert_gone([child])


def test_close_returns_whatever_the_workers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "CLOSE_SECONDS", 0.5)
    envs = make("hang-in-close", "none", "none", "none")
    envs.reset()
    pids = [pid for pid in envs.pids if pid is not None]
    os.kill(pids[1], signal.SIGSTOP)
    os.kill(pids[2], signal.SIGKILL)
    began = time.monotonic()
    envs.close()
    envs.close()
    assert time.monotonic() - began < 10
    assert_gone([*pids])
    assert envs.pids == [None] * 4


def test_close_closes_the_environments(tmp_path: Path) -> None:
    farewell = tmp_path / "farewell"
    envs = WorkerVectorEnv(FaultyFamily(farewell=str(farewell)), ["train"] * 2)
    envs.reset()
    envs.close()
    assert farewell.read_text() == "closed\n" * 2


def test_an_interrupted_step_leaves_nothing_behind(opened: list[WorkerVectorEnv]) -> None:
    envs = make("none", "hang")
    opened.append(envs)
    envs.reset(seed=0)
    envs.step(STILL.repeat(2))
    healthy, hanging = envs.pids
    interrupt = threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT])
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        envs.step(STILL.repeat(2))
    interrupt.join()
    assert_gone([hanging])
    with pytest.raises(UsageError, match="call reset"):
        envs.step(STILL.repeat(2))
    obs, info = envs.reset(seed=0)
    assert_array_equal(obs[:, 0], 0)
    assert "worker_restarted" not in info
    assert envs.pids[0] == healthy and envs.restarts == [0, 0]


def test_forgotten_environments_leave_no_processes() -> None:
    envs = make("none", "none")
    envs.reset()
    pids = envs.pids
    del envs
    gc.collect()
    assert_gone(pids)


SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {folder!r})
from faulty_family import FaultyFamily
from mtrl.envs.workers.vector_env import WorkerSettings, WorkerVectorEnv

if __name__ == "__main__":
    family = FaultyFamily()
    envs = WorkerVectorEnv(family, [family.task("hang", at=1)], settings=WorkerSettings(context={context!r}))
    envs.reset()
    print(envs.pids[0], flush=True)
    {end}
"""


def test_no_process_outlives_the_program(tmp_path: Path) -> None:
    """At its ordinary end with a stopped worker, and when it is killed as a worker hangs."""
    ends = {"forkserver": "os.kill(envs.pids[0], signal.SIGSTOP)", "spawn": "envs.step([0])"}
    programs = {}
    for context, end in ends.items():
        script = tmp_path / f"{context}.py"
        folder = str(Path(__file__).parent)
        script.write_text(SCRIPT.format(folder=folder, context=context, end=end))
        programs[context] = subprocess.Popen(
            [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    for context, program in programs.items():
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        if context == "spawn":
            time.sleep(0.2)  # it is in the step, or about to be: the worker ends in either case
            program.kill()
        _, errors = program.communicate(timeout=60)
        assert program.returncode == (-signal.SIGKILL if context == "spawn" else 0), errors
        assert_gone([pid])


def test_attributes_and_task_sources_reach_the_environments(opened: list[WorkerVectorEnv]) -> None:
    envs = make("none", "none")
    opened.append(envs)
    other = envs.family.task("none", at=77)
    envs.reset(seed=0)
    envs.set_attr("colour", ["green", "blue"])
    assert envs.get_attr("colour") == ("green", "blue")
    with pytest.raises(AttributeError, match="no attribute 'shape'"):
        envs.get_attr("shape")
    with pytest.raises(WorkerError, match="environment 0 .*KeyError: 'never asked'"):
        envs.call("complain")
    with pytest.raises(UsageError, match="3 values of 'colour' for 2"):
        envs.set_attr("colour", [1, 2, 3])
    envs.set_task_source(other, indices=[1])
    os.kill(envs.pids[1] or 0, signal.SIGKILL)
    *_, info = envs.step(STILL.repeat(2))
    assert info["task_id"].tolist() == [envs.family.task("none").id, other.id]
    assert envs.restarts == [0, 1]
    stranger = NoisyWalk().sample(1, np.random.default_rng(0), "train")[0]
    with pytest.raises(UsageError, match="'noisy-walk', not 'faulty'"):
        envs.set_task_source(stranger)


def test_what_an_environment_refuses_is_not_its_failure(opened: list[WorkerVectorEnv]) -> None:
    envs = WorkerVectorEnv(Navigation2D(), ["train"] * 2)
    opened.append(envs)
    with pytest.raises(UsageError, match=r"call reset\(\)"):
        envs.step(np.zeros((2, 2), np.float32))
    with pytest.raises(UsageError, match=r"environment 0 .*options\['task'\] is 3"):
        envs.reset(options={"task": 3})
    _, info = envs.reset(seed=1)
    with pytest.raises(UsageError, match=f"environment 1 .*{info['task_id'][1]}.* not finite"):
        envs.step(np.array([[0, 0], [np.nan, 0]], np.float32))
    with pytest.raises(UsageError, match=r"shape \(2, 3\), wanted \(2, 2\)"):
        envs.step(np.zeros((2, 3), np.float32))
    with pytest.raises(UsageError, match="seed has 3 entries"):
        envs.reset(seed=[1, 2, 3])
    with pytest.raises(UsageError, match="SAME_STEP"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    assert envs.restarts == [0, 0]


def test_wrong_settings_and_families_are_refused() -> None:
    with pytest.raises(UsageError, match="timeout is 0"):
        WorkerSettings(timeout=0)
    with pytest.raises(UsageError, match="start_timeout is nan"):
        WorkerSettings(start_timeout=np.nan)
    with pytest.raises(UsageError, match="max_restarts is -1"):
        WorkerSettings(max_restarts=-1)
    with pytest.raises(UsageError, match="context is 'fork'; it must be 'forkserver' or 'spawn'"):
        WorkerSettings(context="fork")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="tasks is empty"):
        WorkerVectorEnv(FaultyFamily(), [])
    with pytest.raises(UsageError, match="split is 'validation'"):
        WorkerVectorEnv(FaultyFamily(), ["validation"])  # type: ignore[list-item]
    family = FaultyFamily()
    object.__setattr__(family, "lock", threading.Lock())
    with pytest.raises(UsageError, match="'faulty' cannot be sent .*cloudpickle"):
        WorkerVectorEnv(family, ["train"]).reset()


def test_sb3_face_equals_dummy_vec_env(opened: list[WorkerVectorEnv]) -> None:
    family = NoisyWalk()
    task = family.sample(1, np.random.default_rng(7), "test")[0]
    envs = WorkerVectorEnv(family, ["train", "test"])
    opened.append(envs)
    ours = WorkerVecEnv(envs)
    theirs = DummyVecEnv([lambda: family.make("train"), lambda: family.make("test")])
    rng = np.random.default_rng(1)
    for env in (ours, theirs):
        env.seed(5)
    assert plain(ours.reset()) == plain(theirs.reset())
    for action in rng.integers(-1, 2, (40, 2)):
        assert plain(ours.step(action)) == plain(theirs.step(action))
        assert ours.reset_infos == theirs.reset_infos
    for env in (ours, theirs):
        env.set_options({"task": task})
    assert plain(ours.reset()) == plain(theirs.reset())
    assert ours.get_attr("task") == theirs.get_attr("task") == [task, task]
    assert not ours.has_attr("no_such_attribute")
    ours.env_method("set_task_source", task, indices=1)
    ours.reset()
    assert ours.reset_infos[1] == {"task_id": task.id} != ours.reset_infos[0]


def test_sb3_face_reports_a_restart_as_a_truncation(opened: list[WorkerVectorEnv]) -> None:
    envs = make("raise")
    opened.append(envs)
    ours = WorkerVecEnv(envs)
    ours.set_attr("colour", "blue")
    assert ours.get_attr("colour") == ["blue"]
    ours.reset()
    before = ours.step(STILL)[0]
    obs, reward, done, (info,) = ours.step(STILL)
    assert (obs[0, 0], reward[0], done[0]) == (0.0, 0.0, True)
    assert info["TimeLimit.truncated"]
    assert "bad luck" in info["worker_restarted"]
    assert_array_equal(info["terminal_observation"], before[0])
    ours.close()
    assert envs.pids == [None]
