"""The command line: what works, and that everything else is one line with the way out."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from mtrl import __version__
from mtrl.cli import COMMANDS, main
from mtrl.commands.train import parse_training
from mtrl.config import from_toml
from mtrl.envs.family import FamilySpec
from mtrl.envs.navigation2d import Navigation2D
from mtrl.envs.registry import family_names, get_family
from mtrl.envs.task import Task
from mtrl.errors import MissingExtraError, MtrlError, guarded
from mtrl.evaluation.statistics import paired_difference
from mtrl.evaluation.trained import EvaluationSettings, load_run
from mtrl.interrupts import Interrupted
from mtrl.meta.anil import ANIL
from mtrl.meta.cavia import CAVIA
from mtrl.meta.kinds import KINDS
from mtrl.meta.maml import MAML, MetaLearner
from mtrl.meta.meta_sgd import MetaSGD
from mtrl.meta.outer import TRPO
from mtrl.meta.proximal import PROMP
from mtrl.meta.reptile import Reptile
from mtrl.meta.supervised import SupervisedConfig
from mtrl.seeding import numpy_generator

TINY = ["--iterations", "4", "--test-tasks", "3", "--compile", "off", "--hidden", "8"]
TINY_RL = [
    *("--iterations", "1", "--test-tasks", "2", "--tasks-per-batch", "2"),
    *("--episodes-per-task", "2", "--hidden", "4", "--family-options", "horizon", "5"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three finished runs: Meta-SGD and MAML on sinusoids, Meta-SGD on navigation."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", "supervised", "--dir", f"{folder}/sgd", *TINY]) == 0
    maml = ["learner:maml", "--learner.step-size", "0.02"]
    assert main(["train", "supervised", "--dir", f"{folder}/maml", *TINY, *maml]) == 0
    assert main(["train", "rl", "--dir", f"{folder}/rl", *TINY_RL]) == 0
    return folder


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return the one line that the command is refused with."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mtrl: ") and err.count("\n") == 1
    return err.removeprefix("mtrl: ").rstrip("\n")


# Help and dispatch


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mtrl {__version__}\n"
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out and summary in out for command, summary in COMMANDS.items())


def test_without_arguments_usage_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: mtrl")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert main([command, "--help"]) == 0
    except SystemExit as stop:
        assert not stop.code
    assert f"mtrl {command}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_help_documents_every_setting(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", kind, "--help"])
    assert not stop.value.code
    options = set(re.findall(r"--([\w-]+)", capsys.readouterr().out))
    config = KINDS[kind].config
    nested = {"learner", "advantages", "outer-advantages", "outer", "curriculum", "method", "tasks"}
    assert {name.replace("_", "-") for name in config.__dataclass_fields__} <= options | nested
    assert {"dir", "config", "threads"} <= options


# What is refused, and how


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tran"], "unknown command tran; did you mean train?"),
        (["--verbose"], "unknown option --verbose; there are families, train"),
        (["train"], "write `mtrl train supervised` or `mtrl train rl`"),
        (["train", "rll"], "unknown kind of run 'rll'"),
        (["train", "rl"], "missing --dir (see `mtrl train rl --help`)"),
        (["train", "supervised", "--dir", "x", "--shotz", "3"], "did you mean --shots?"),
        (["train", "supervised", "--dir", "x", "--shots", "ten"], "'ten'; write --shots INT"),
        (["train", "supervised", "--dir", "x", "--shots"], "Missing value for argument '--shots'"),
        (
            ["train", "supervised", "--dir", "x", "--shots", "-3"],
            "shots must be at least 1, got -3",
        ),
        (["train", "supervised", "--dir", "x", "extra"], "unknown option extra"),
        (["train", "supervised", "--dir", "x", "--threads", "0"], "threads must be at least 1"),
        (
            ["train", "supervised", "--dir", "x", "--activation", "selu"],
            "invalid choice 'selu' for argument '--activation'. Expected one of ('relu', 'tanh'",
        ),
        (
            ["train", "supervised", "--dir", "x", "--learner.step-size", "1"],
            "--learner.step-size is an option of learner:anil, learner:cavia, others, one of which",
        ),
        (
            ["train", "supervised", "--dir", "x", "--learner.outer", "adam"],
            "--learner.outer is an option of learner:reptile, which must come before it",
        ),
        (
            ["train", "supervised", "--dir", "x", "learner:mamal"],
            "unknown choice learner:mamal; available subcommands: learner:meta-sgd, learner:maml",
        ),
        (
            ["train", "supervised", "--dir", "x", "--learner.inner-steps", "0"],
            "inner_steps must be at least 1, got 0",
        ),
        (["train", "supervised", "--dir", "x", "--family", "sinus"], "did you mean 'sinusoid'?"),
        (["train", "supervised", "--dir", "x", "--family", "navigation2d"], "`mtrl train rl`"),
        (["train", "supervised", "--dir", "x", "--preset", "mamal"], "did you mean 'maml'?"),
        (["train", "supervised", "--dir", "x", "--device", "gpu"], "device 'gpu' cannot be used"),
        (["train", "rl", "--dir", "x", "--resume"], "resumed with `mtrl train --resume RUNDIR`"),
        (["train", "--resume"], "--resume needs the run's directory"),
        (["train", "--resume", "nowhere"], "no run to resume in nowhere"),
        (["families", "sinus"], "unknown task family 'sinus'"),
        (["families", "sinusoid", "--sample", "-1"], "sample must be at least 1, got -1"),
        (["families", "sinusoid", "--split", "all"], "invalid choice 'all'"),
        (["families", "--sample", "3"], "need a family"),
        (["evaluate"], "missing RUNDIR"),
        (["evaluate", "nowhere"], "no run in nowhere; `mtrl train` makes one"),
        (["reproduce"], "missing NAME"),
        (["reproduce", "meta-sgd-regresion"], "did you mean meta-sgd-regression?"),
        (["watch", "nowhere"], "no directory nowhere"),
        (["watch", ".", "--port", "70000"], "port must be from 0 to 65535, got 70000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_request_is_one_line_that_names_the_fix(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refusal(capsys, *arguments)
    assert list(tmp_path.iterdir()) == [], "a refused request must leave nothing behind"


def test_an_unknown_key_in_the_file_names_the_nearest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("shotz = 3\n")
    said = refusal(capsys, "train", "supervised", "--dir", tmp_path / "run", "--config", file)
    assert said == f"{file}: unknown key shotz; did you mean shots?"
    assert not (tmp_path / "run").exists()


def test_a_test_task_in_training_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["families", "sinusoid", "--sample", "3", "--split", "test"]) == 0
    (tmp_path / "tasks").write_text(capsys.readouterr().out)
    command = [
        "train",
        "supervised",
        "--dir",
        tmp_path / "run",
        "--train-tasks",
        tmp_path / "tasks",
    ]
    said = refusal(capsys, *command)
    assert said.startswith("a test task in training: ") and "--split train" in said
    assert not (tmp_path / "run").exists()


def test_errors_of_several_lines_become_one(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise MtrlError("first\nsecond")

    assert guarded(fail) == 1
    assert capsys.readouterr().err == "mtrl: first second\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_has_the_shells_exit_code(number: int) -> None:
    def stop() -> None:
        raise Interrupted("stopped", number)

    assert guarded(stop) == 128 + number


def test_ctrl_c_elsewhere_has_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    assert guarded(stop) == 130
    assert capsys.readouterr().err == "mtrl: interrupted\n"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m mtrl families sinusoid --sample 20000"
    shell = subprocess.run(
        ["bash", "-c", f"{command} | head -n 1; echo ${{PIPESTATUS[0]}}"],
        check=True,
        capture_output=True,
        text=True,
    )
    first, code = shell.stdout.splitlines()
    assert Task.from_json(first).family == "sinusoid"
    assert code == "141"
    assert shell.stderr == ""


# families


def test_families_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families"]) == 0
    out = capsys.readouterr().out
    assert "navigation2d: move a point to a hidden goal" in out
    assert "fixed-start, varying-start" in out
    assert "100 steps" in out and "2 numbers, -1 to 1" in out
    assert "goal: 2 numbers, -0.5 to 0.5 (length (x, y))" in out
    assert "mtrl/CartPole-v0" in out
    assert max(map(len, out.splitlines())) <= 100
    assert all(f"\n{name}: " in f"\n{out}" for name in family_names())


def test_one_family_is_shown_with_the_spread_of_its_tasks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["families", "cartpole", "--preset", "extrapolation"]) == 0
    out = capsys.readouterr().out
    words = " ".join(out.split())
    assert "extrapolation: test tasks have length in 0.25 to 0.35 or 0.8 to 1," in words
    lines = r"length +train +0.25 \|(.*)\| 1\n +test +0.25 \|(.*)\| 1\n"
    train, test = re.search(lines, out).groups()  # type: ignore[union-attr]  # a mismatch fails
    # No bin of 40 has both but those with a border, one at each end.
    both = sum(" " not in pair for pair in zip(train, test, strict=True))
    assert len(train) == 40 and both <= 2
    assert train[:5].isspace() and train[-5:].isspace() and test[6:-11].isspace()


def test_a_family_without_its_extra_is_listed_with_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(**arguments: object) -> Navigation2D:
        raise MissingExtraError('task family "far" needs stars: pip install "mtrl-suite[stars]"')

    class Near(Navigation2D):
        def check_installed(self) -> None:
            missing()

    specs = {
        name: FamilySpec(
            name=name, factory=factory, presets={"default": {}}, summary="", extra="stars"
        )
        for name, factory in (("far", missing), ("near", Near))
    }
    monkeypatch.setattr("mtrl.commands.families.family_names", lambda: ["far", "near"])
    monkeypatch.setattr("mtrl.envs.registry.family_spec", specs.__getitem__)
    monkeypatch.setattr("mtrl.commands.families.family_spec", specs.__getitem__)
    assert main(["families"]) == 0
    far, near = capsys.readouterr().out.split("\n\n")[:2]
    assert far.startswith("far:") and 'pip install "mtrl-suite[stars]"' in far
    assert 'needs        pip install "mtrl-suite[stars]", which is not installed' in near
    assert "horizon      100 steps" in near


def test_a_picture_of_tasks_is_a_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tasks.png"
    assert main(["families", "bandit", "--picture", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert str(path) in capsys.readouterr().out
    assert main(["families", "bandit", "--picture", str(tmp_path / "no" / "x.png")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_sampled_tasks_are_the_familys_own(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["navigation2d", "--preset", "varying-start", "--sample", "5", "--split", "test"]
    assert main(["families", *arguments, "--seed", "3"]) == 0
    printed = [Task.from_json(line) for line in capsys.readouterr().out.splitlines()]
    family = get_family("navigation2d", "varying-start")
    assert printed == family.sample(5, numpy_generator(3, "tasks"), "test")


# train


def test_settings_come_from_options_then_file_then_defaults(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(
        'shots = 7\nquery_shots = 6\n[learner]\nkind = "maml"\nstep_size = 0.5\ninner_steps = 2\n'
    )
    arguments = ["--config", f"{tmp_path}/settings.toml", *TINY, "--shots", "3"]
    last = ["--learner.step-size", "0.25"]
    assert main(["train", "supervised", "--dir", f"{tmp_path}/run", *arguments, *last]) == 0
    config = from_toml(SupervisedConfig, tmp_path / "run" / "config.toml")
    assert (config.shots, config.query_shots, config.iterations) == (3, 6, 4)
    assert config.learner == MAML(step_size=0.25, inner_steps=2)
    assert config.tasks_per_batch == SupervisedConfig().tasks_per_batch


def test_the_learner_is_chosen_by_name(runs: Path) -> None:
    assert load_run(runs / "sgd").config.learner == MetaSGD()
    assert load_run(runs / "maml").config.learner == MAML(step_size=0.02)


@pytest.mark.parametrize(
    ("options", "learner"),
    [
        ("learner:maml --learner.first-order", MAML(first_order=True)),
        ("learner:anil --learner.no-adapt-log-std", ANIL(adapt_log_std=False)),
        ("learner:cavia --learner.context-size 3", CAVIA(context_size=3)),
        ("learner:reptile --learner.outer interpolation", Reptile(outer="interpolation")),
    ],
)
def test_every_learner_has_a_name(options: str, learner: MetaLearner) -> None:
    arguments = ["--dir", "x", *options.split(), "--shots", "3"]
    config = parse_training(KINDS["supervised"], arguments, "mtrl train supervised").settings
    assert (config.learner, config.shots) == (learner, 3)


@pytest.mark.parametrize(
    ("options", "learner", "outer"),
    [
        ("--outer.max-kl 0.02", MetaSGD(), TRPO(max_kl=0.02)),
        ("outer:trpo --outer.max-kl 0.02 learner:anil", ANIL(), TRPO(max_kl=0.02)),
        ("learner:cavia outer:promp --outer.clip 0.2", CAVIA(), PROMP(clip=0.2)),
        ("outer:promp --learner.inner-steps 2", MetaSGD(inner_steps=2), PROMP()),
    ],
)
def test_the_outer_update_has_a_name_and_trpo_need_not_be_named(
    options: str, learner: MetaLearner, outer: TRPO | PROMP
) -> None:
    arguments = ["--dir", "x", *options.split()]
    config = parse_training(KINDS["rl"], arguments, "mtrl train rl").settings
    assert (config.learner, config.outer) == (learner, outer)


def test_a_learner_without_a_form_for_reinforcement_learning_is_no_choice_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = refusal(capsys, "train", "rl", "--dir", "x", "learner:reptile")
    assert "unknown choice learner:reptile; available subcommands: learner:meta-sgd, " in said
    assert "learner:cavia" in said


def test_resume_needs_the_directory_only(runs: Path, tmp_path: Path) -> None:
    """Two iterations and two more give the run of four, by files and parameters."""
    directory = str(tmp_path / "run")
    short = [*TINY, "--iterations", "2"]
    assert main(["train", "supervised", "--dir", directory, *short]) == 0
    assert main(["train", "--resume", directory, "--iterations", "4"]) == 0
    ours, straight = load_run(tmp_path / "run"), load_run(runs / "sgd")
    assert ours.iteration == straight.iteration == 4
    for name, value in straight.meta.named().items():
        torch.testing.assert_close(ours.meta.named()[name], value, rtol=0, atol=0)
    assert main(["train", f"--resume={directory}"]) == 0, "a finished run has nothing to do"


def test_what_may_not_change_on_resume_is_named(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "train", "--resume", runs / "sgd", "--shots", "3")
    assert said.startswith("shots differs from")


def test_a_second_run_in_a_directory_is_refused(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "train", "supervised", "--dir", runs / "sgd")
    assert "holds a run" in said and "--resume" in said


def test_threads_are_set_for_torch(runs: Path) -> None:
    before = torch.get_num_threads()
    try:
        assert main(["train", "--resume", str(runs / "sgd"), "--threads", "2"]) == 0
        assert torch.get_num_threads() == 2
        assert main(["train", "--resume", str(runs / "sgd")]) == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_process_after_saving(number: signal.Signals, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    many = ["--iterations", "1000000", "--log-every", "1"]
    command = [
        sys.executable,
        "-m",
        "mtrl",
        "train",
        "supervised",
        "--dir",
        directory,
        *TINY,
        *many,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        metrics = directory / "metrics.csv"
        deadline = time.monotonic() + 60
        while not (metrics.exists() and metrics.stat().st_size > 200):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    last = err.splitlines()[-1]
    assert last.startswith(f"mtrl: {number.name}: stopped after saving step")
    assert last.endswith(f"mtrl train --resume {directory}")
    assert "Traceback" not in err
    assert load_run(directory).iteration > 0


# evaluate


def test_evaluate_states_every_step_and_writes_every_score(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--steps", "2", "--tasks", "6", "--output", str(tmp_path / "out")]
    assert main(["evaluate", str(runs / "sgd"), *arguments]) == 0
    out = capsys.readouterr().out
    assert "sinusoid (maml), 6 unseen tasks, 10 shots, seed 0" in out
    assert "lower is better" in out
    assert re.search(r"before +after 1 +after 2\nMeta-SGD +\d", out)
    rows = (tmp_path / "out" / "evaluation.csv").read_text().splitlines()
    assert rows[0] == "learner,task,steps,score"
    assert len(rows) == 1 + 6 * 3
    run = load_run(runs / "sgd")
    settings = EvaluationSettings(steps=2, tasks=6)
    tasks = run.unseen_tasks(settings)
    assert {task.split for task in tasks} == {"test"}
    expected = run.scores(tasks, settings)
    written = np.array([float(row.split(",")[3]) for row in rows[1:]]).reshape(6, 3)
    np.testing.assert_array_equal(written, expected)
    facts = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert facts["settings"]["shots"] == 10 and facts["runs"][0]["iteration"] == 4
    assert (tmp_path / "out" / "evaluation.png").read_bytes().startswith(b"\x89PNG")


def test_two_runs_are_compared_on_the_same_tasks_and_noise(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--against", str(runs / "maml"), "--tasks", "12"]
    assert main(["evaluate", str(runs / "sgd"), *arguments]) == 0
    out = capsys.readouterr().out
    settings = EvaluationSettings(tasks=12)
    first, second = load_run(runs / "sgd"), load_run(runs / "maml")
    a, b = (run.scores(first.unseen_tasks(settings), settings) for run in (first, second))
    pair = paired_difference(a[:, 1], b[:, 1], numpy_generator(0, "bootstrap"))
    assert "Meta-SGD minus MAML" in out
    assert str(pair).split(",")[0] in out


def test_evaluation_of_navigation_has_its_anchors(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(runs / "rl"), "--tasks", "3", "--episodes", "2"]) == 0
    out = capsys.readouterr().out
    assert "2 episodes per task and step" in out and "higher is better" in out
    assert "standing still" in out and "best possible" in out


def test_without_adaptation_the_score_is_the_one_before(runs: Path) -> None:
    run, settings = load_run(runs / "sgd"), EvaluationSettings(tasks=4, steps=2)
    tasks = run.unseen_tasks(settings)
    still = run.scores(tasks, settings, adapting=False)
    before = run.scores(tasks, settings)[:, 0]
    np.testing.assert_array_equal(still, np.stack([before] * 3, axis=1))


@pytest.mark.parametrize(
    ("run", "option", "said"),
    [
        ("sgd", ["--episodes", "3"], "episodes is for reinforcement-learning runs"),
        ("rl", ["--shots", "3"], "shots is for supervised runs"),
        ("sgd", ["--against", "{runs}/rl"], "were trained on different tasks"),
        ("sgd", ["--against", "{runs}/sgd"], "is the same run"),
        ("sgd", ["--steps", "0"], "steps must be at least 1, got 0"),
        ("sgd", ["--device", "gpu"], "device 'gpu' cannot be used"),
    ],
)
def test_evaluate_refuses_what_has_no_meaning(
    run: str, option: list[str], said: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.format(runs=runs) for word in option]
    assert said in refusal(capsys, "evaluate", runs / run, *filled)


def test_a_run_without_a_checkpoint_is_a_failure(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.toml", "manifest.json"):
        (tmp_path / name).write_bytes((runs / "sgd" / name).read_bytes())
    assert main(["evaluate", str(tmp_path)]) == 1
    assert "no good checkpoint" in capsys.readouterr().err


# watch


def watch(folder: Path, port: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "mtrl", "watch", str(folder), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def listening_addresses(process: int, port: int) -> list[str]:
    """Return the addresses, as Linux writes them, on which a port is listened to."""
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]
    ]
    ours = [row for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"]
    return [row[1].partition(":")[0] for row in ours]


def test_watch_serves_the_runs_on_the_loopback_address_only(runs: Path) -> None:
    with watch(runs, port=0) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
            assert found is not None
            with urllib.request.urlopen(f"{found[0]}data/logdir", timeout=120) as answer:
                assert json.load(answer)["logdir"] == str(runs)
            if Path("/proc/net/tcp").exists():
                assert listening_addresses(process.pid, int(found[1])) == ["0100007F"]
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=120) == 0
        finally:
            process.kill()


def test_a_taken_port_is_named(runs: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with watch(runs, port) as process:
            _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith(f"mtrl: port {port} cannot be used")
    assert "Traceback" not in err
