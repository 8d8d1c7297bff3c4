"""Processes of one job, however they are started: their values, their waits, their ends."""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from DDA import ranks

PROGRAM = """
    import os, sys, time
    from DDA import ranks
    def main(world):
        size = len(world.gather(world.rank))
        assert world.gather(world.rank) == list(range(size)) and size == world.size
        assert world.broadcast(("from", world.rank)) == ("from", 0)
        assert world.on_root(lambda: world.rank + 7) == 7
        try:
            world.together(lambda: int("x" if world.rank == size - 1 else "1"))
        except ranks.SharedError as error:
            assert "invalid literal" in str(error)
        else:
            raise AssertionError("no error")
        for i in range(3):
            world.report((world.rank, i))
        world.report(None)
        reports = []
        while world.rank == 0 and reports.count(None) < size:
            reports += world.reports()
        if world.rank == 0:
            values = sorted(report for report in reports if report is not None)
            assert values == [(r, i) for r in range(size) for i in range(3)], values
            print("size", size, "threads", world.cpu_threads(), flush=True)
        else:
            world.cpu_threads()
        if "die" in sys.argv and world.rank == size - 1:
            raise {"die": KeyError, "fail": ValueError}[sys.argv[1]]("on purpose")
        if "die" in sys.argv or "fail" in sys.argv:
            world.gather(None)
        return 0
    sys.exit(ranks.run(main, "prog", "run it again"))
"""
ENV = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("PMI", "OMP", "SLURM", "TORCHELASTIC"))
}
ENV["PYTHONPATH"] = str(Path(__file__).parents[1])
ENV["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}"


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "prog.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return str(path)


def call(command, **env):
    return subprocess.run(
        command, env={**ENV, **env}, capture_output=True, text=True, timeout=120, check=False
    )


def test_alone_is_rank_0_of_1(program):
    result = call([sys.executable, program])
    assert result.returncode == 0 and result.stdout.startswith("size 1 "), result.stderr


@pytest.mark.parametrize("count", [2, 3])
def test_mpiexec(program, count):
    pytest.importorskip("mpi4py")
    result = call(["mpiexec", "-n", str(count), sys.executable, program])
    share = max(1, len(os.sched_getaffinity(0)) // count)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"size {count} threads {share}\n"


def test_torchrun(program):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    result = call([*launcher, "--nproc_per_node", "2", program])
    assert result.returncode == 0 and "size 2 " in result.stdout, result.stderr


def test_srun(program):
    """Two processes with the environment that srun gives; srun itself is not installed."""
    step = dict(SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NUM_NODES="1", SLURM_JOB_ID=str(os.getpid()))
    both = [
        subprocess.Popen(
            [sys.executable, program],
            env={**ENV, **step, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0] and outputs[0].startswith("size 2 ")


# Processes of several jobs at once. They are forked from one that has imported torch, which takes
# seconds; each has an environment, outputs and an exit status of its own.
STARTER = """
    import json, os, signal, sys, time
    from pathlib import Path
    import torch.distributed
    from DDA import ranks

    def work(world, label, hold):
        value = world.broadcast((label, world.rank))
        Path(f"{label}.{world.rank}.at_work").touch()
        while world.rank == 0 and hold and not Path(f"{label}.go").exists():
            time.sleep(0.02)
        world.report(f"{label} {world.rank}")
        print(value, world.gather((label, world.rank)))
        if world.rank == 0:
            print(sorted(world.reports()))
        return 0

    def become(order):
        for descriptor, end in ((1, "out"), (2, "err")):
            file = os.open(f"{order['name']}.{end}", os.O_WRONLY | os.O_CREAT)
            os.dup2(file, descriptor)
        os.environ.update(order["env"])
        ranks.PATIENCE, ranks.START_LIMIT = order["patience"], order["limit"]
        main = lambda world: work(world, order["label"], order["hold"])
        status = ranks.run(main, "prog", "run it again")
        sys.stdout.flush()
        os._exit(status)  # an interpreter with torch would take a second to end in order

    def ended(pid):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        return "still running"

    def stop():
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        running.clear()

    running = set()
    print("ready", flush=True)
    while line := sys.stdin.readline():
        order = json.loads(line)
        if "pid" in order:
            answer = ended(order["pid"])
            if answer != "still running":
                running.discard(order["pid"])
        elif "stop" in order:
            answer = stop()
        else:
            answer = os.fork()
            if answer == 0:
                become(order)
            running.add(answer)
        print(json.dumps(answer), flush=True)
    stop()
"""


JOB = 100 * os.getpid()  # no other run of these tests on this machine has its ports


class Rank:
    """One started process; its files are in the starter's folder."""

    def __init__(self, starter, name, pid):
        self._starter, self._name, self.pid = starter, name, pid

    def status(self):
        return self._starter.ask(pid=self.pid)

    def output(self):
        return (self._starter.folder / f"{self._name}.out").read_text()

    def errors(self):
        return (self._starter.folder / f"{self._name}.err").read_text()

    def says(self, pattern):
        """Wait until its errors contain the pattern."""
        wait_for(lambda: re.search(pattern, self.errors()), self.errors)
        return re.search(pattern, self.errors())


class Starter:
    def __init__(self, process, folder):
        self._process, self.folder, self._count = process, folder, 0

    def ask(self, **order):
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def rank(self, rank, label, *, hold=False, patience=20.0, limit=60.0, **env):
        """Start a rank of a job of two; env: what differs from the environment of srun."""
        self._count += 1
        name = f"{label}.{rank}.{self._count}"
        step = dict(SLURM_JOB_ID=str(JOB), SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NUM_NODES="1")
        env = {**step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), **env}
        (self.folder / f"{name}.err").touch()
        order = dict(name=name, label=label, hold=hold, patience=patience, limit=limit, env=env)
        return Rank(self, name, self.ask(**order))

    def job(self, label, **options):
        return [self.rank(rank, label, **options) for rank in (0, 1)]

    def at_work(self, label):
        """Wait until both ranks of that job have had their first broadcast."""
        files = [self.folder / f"{label}.{rank}.at_work" for rank in (0, 1)]
        wait_for(lambda: all(file.exists() for file in files), lambda: f"{label} does not work")

    def go(self, label):
        """Let a job that is held go on."""
        (self.folder / f"{label}.go").touch()


def wait_for(condition, complaint):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, complaint()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def starter_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("starter")
    command = [sys.executable, "-c", textwrap.dedent(STARTER)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, env=ENV, cwd=folder, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        yield process, folder
        process.stdin.close()


@pytest.fixture
def starter(starter_process):
    process, folder = starter_process
    starter = Starter(process, folder)
    yield starter
    starter.ask(stop=True)
    for file in folder.iterdir():
        file.unlink()


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def assert_done(job, label, errors=""):
    """Assert that both ranks ended well, with the values of their own job and these errors."""
    values = f"('{label}', 0) [('{label}', 0), ('{label}', 1)]\n"
    assert [rank.status() for rank in job] == [0, 0], [rank.errors() for rank in job]
    outputs = [rank.output() for rank in job]
    assert outputs == [f"{values}['{label} 0', '{label} 1']\n", values]
    assert [rank.errors() for rank in job] == [errors, errors]


def assert_refused(rank, *words):
    """Assert that the rank ended with status 2 and one line that has these words."""
    assert rank.status() == 2, rank.errors()
    (line,) = [line for line in rank.errors().splitlines() if ": note: " not in line]
    assert line.startswith("prog: error: ") and all(word in line for word in words), line
    assert rank.output() == ""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (dict(SLURM_STEP_ID="0"), dict(SLURM_STEP_ID="1")),
        (dict(SLURM_STEPID="0"), dict(SLURM_STEPID="1")),  # the older name
        ({}, dict(SLURM_STEP_ID="4294967290")),  # no step id; the id of an interactive step
        (dict(SLURM_STEP_ID="0"), dict(SLURM_STEP_ID="0", SLURM_JOB_ID=str(JOB + 1))),
        (dict(SLURM_STEP_ID="0"), dict(SLURM_STEP_ID="0", SLURM_RESTART_COUNT="1")),
    ],
)
def test_two_srun_steps_at_the_same_time_each_have_their_own_values(starter, first, second):
    healthy = starter.job("first", hold=True, **first)
    starter.at_work("first")
    assert_done(starter.job("second", **second), "second")
    starter.go("first")
    assert_done(healthy, "first")


def test_ports_of_neighbouring_jobs_and_steps_differ():
    numbers = [(job, step) for job in range(987_650, 987_700) for step in range(50)]
    ports = {ranks._slurm_port(job, step, 0) for job, step in numbers}
    ports |= {ranks._slurm_port(987_660, step, restart) for step in range(50) for restart in (1, 2)}
    assert len(ports) == len(numbers) + 100
    assert min(ports) >= 20_000 and max(ports) < 32_768


def test_a_port_that_another_job_has_is_an_error_that_says_what_to_do(starter, free_port):
    healthy = starter.job("first", hold=True, MASTER_PORT=free_port)
    starter.at_work("first")
    strays = starter.job("second", MASTER_PORT=free_port, SLURM_JOB_ID=str(JOB + 1))
    place = f"127.0.0.1:{free_port}"
    own, other = f"Slurm job {JOB + 1}, step 0", f"(Slurm job {JOB}, step 0"
    assert_refused(strays[0], own, place, "has this port", "Unset MASTER_PORT")
    assert_refused(strays[1], own, place, other, "Unset MASTER_PORT")
    starter.go("first")
    assert_done(healthy, "first")


def test_a_port_that_a_mute_program_has_is_an_error_that_says_what_to_do(starter, free_port):
    """torch itself would wait for an answer forever."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", int(free_port)))
        mute.listen()
        strays = starter.job("only", MASTER_PORT=free_port, patience=0.3, limit=1.5)
        assert_refused(strays[0], f"127.0.0.1:{free_port}", "another program has this port")
        assert_refused(strays[1], "gave up", f"rank 0 at 127.0.0.1:{free_port} to answer")


@pytest.mark.parametrize("port", ["many", "0", "65536", "-1"])
def test_a_wrong_port_is_an_error_that_says_so(starter, port):
    assert_refused(starter.rank(0, "only", MASTER_PORT=port), f"MASTER_PORT is '{port}'", "65535")


def test_a_rank_that_is_started_twice_is_refused_and_the_job_goes_on(starter):
    healthy = starter.job("first", hold=True)
    starter.at_work("first")
    assert_refused(starter.rank(1, "first"), f"rank 1 of Slurm job {JOB}", "started twice")
    assert_refused(starter.rank(0, "first"), f"rank 0 of Slurm job {JOB}", "started twice", "again")
    starter.go("first")
    assert_done(healthy, "first")


def test_one_of_two_waiting_processes_of_the_same_rank_is_refused(starter):
    twins = [starter.rank(1, "only") for _ in range(2)]
    root = starter.rank(0, "only")
    assert root.status() == 0, root.errors()
    assert sorted(twin.status() for twin in twins) == [0, 2]
    assert sorted(len(twin.errors().splitlines()) for twin in twins) == [0, 1]


def test_a_rank_that_waits_for_the_start_of_others_says_for_whom_and_what_to_do(starter, program):
    """This happens inside `srun --ntasks 3 --pty bash`, where task 0 alone is the user's shell."""
    shell = dict(SLURM_STEP_NUM_TASKS="3", SLURM_PROCID="0", SLURM_LOCALID="0")
    root = starter.rank(0, "first", patience=0.4, **shell)
    waited = r"prog: note: rank 0 has waited \d+ s, since [\d:]+, for "
    note = root.says(waited + r"ranks 1, 2 to start.*\n")
    (advice,) = re.findall(r"`(env [^`]*) COMMAND`", note[0])
    alone = call([*shlex.split(advice), sys.executable, program], **shell, SLURM_JOB_ID=str(JOB))
    assert alone.returncode == 0 and alone.stdout.startswith("size 1 "), alone.stderr
    assert "`srun --overlap --ntasks 3 COMMAND`" in note[0]
    step = dict(SLURM_STEP_ID="1", SLURM_STEP_NUM_TASKS="3")
    inner = [starter.rank(rank, "inner", **step) for rank in range(3)]
    assert [rank.status() for rank in inner] == [0, 0, 0], [rank.errors() for rank in inner]
    late = [starter.rank(2, "first", SLURM_STEP_NUM_TASKS="3")]
    root.says(waited + "rank 1 to start")
    late.append(starter.rank(1, "first", SLURM_STEP_NUM_TASKS="3"))
    assert [rank.status() for rank in (root, *late)] == [0, 0, 0], root.errors()


def test_a_rank_that_nobody_answers_says_so_and_gives_up(starter):
    rank = starter.rank(1, "only", patience=0.3, limit=1.5)
    assert rank.status() == 2
    lines = rank.errors().splitlines()
    notes = [": note: " in line for line in lines]  # after 0.3, 0.6 and 1.2 s
    assert 2 <= len(notes) <= 4 and notes == [True] * (len(notes) - 1) + [False]
    assert all("for rank 0 at 127.0.0.1:" in line and "srun --pty bash" in line for line in lines)


def test_a_rank_that_waits_for_the_work_of_others_says_for_whom_and_no_more(starter):
    both = starter.job("only", hold=True, patience=0.4)
    both[1].says(r"prog: note: rank 1 has waited \d+ s, since [\d:]+, for rank 0\n")
    starter.go("only")
    assert [rank.status() for rank in both] == [0, 0]


def test_the_end_of_rank_0_is_an_error_in_a_sentence(starter):
    both = starter.job("only", hold=True)
    starter.at_work("only")
    os.kill(both[0].pid, 9)
    assert both[0].status() == -9 and both[1].status() == 1
    errors = both[1].errors()
    assert "prog: error (rank 1 of 2): the connection to rank 0 at 127.0.0.1:" in errors
    assert "Traceback" not in errors


def test_an_interrupt_while_ranks_are_awaited_is_no_traceback(starter):
    for rank in (0, 1):
        waiting = starter.rank(rank, "only", patience=0.2)
        waiting.says("has waited")
        os.kill(waiting.pid, 2)
        assert waiting.status() == 130
        assert waiting.errors().endswith("prog: interrupted before all ranks were there\n")


def test_torchruns_store_serves_one_start_after_another(starter, free_port):
    """The store outlives a start whose processes failed, and so do their keys."""
    distributed = pytest.importorskip("torch.distributed")
    place = ("127.0.0.1", int(free_port))
    agent = distributed.TCPStore(*place, is_master=True, wait_for_workers=False)
    names = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port, WORLD_SIZE="2")
    names |= dict(TORCHELASTIC_RUN_ID="run", TORCHELASTIC_USE_AGENT_STORE="True")
    for restart in "01":
        names["TORCHELASTIC_RESTART_COUNT"] = restart
        job = [
            starter.rank(int(rank), restart, RANK=rank, LOCAL_RANK=rank, **names) for rank in "01"
        ]
        assert_done(job, restart)
    twin = starter.rank(1, "1", RANK="1", LOCAL_RANK="1", **names)
    assert_refused(twin, "rank 1 of torchrun run, restart 1", "started twice")
    del agent


@pytest.mark.parametrize(("how", "word"), [("die", "KeyError"), ("fail", "")])
def test_one_rank_that_fails_ends_the_job_with_a_message(program, how, word):
    pytest.importorskip("mpi4py")
    result = call(["mpiexec", "-n", "2", sys.executable, program, how, "die"])
    assert result.returncode != 0
    for words in ("prog: error (rank 1 of 2): ", "on purpose", word):
        assert words in result.stderr


def test_a_launcher_of_another_mpi_is_an_error_that_says_what_to_do(program):
    pytest.importorskip("mpi4py")
    result = call([sys.executable, program], OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0")
    assert result.returncode == 2
    assert "mpiexec started 2 processes, but mpi4py's MPI library says 1" in result.stderr


def test_a_launcher_without_mpi4py_is_an_error_that_says_what_to_do(program, tmp_path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("raise ImportError('not here')")
    path = f"{tmp_path}:{ENV['PYTHONPATH']}"
    result = call([sys.executable, program], PMI_SIZE="2", PMI_RANK="0", PYTHONPATH=path)
    assert result.returncode == 2 and "pip install mpi4py mpich" in result.stderr


def test_on_root_and_together_pass_errors_on_and_let_faults_through():
    def fail():
        raise ValueError("no number")

    world = ranks.World()
    for way in (world.on_root, world.together):
        with pytest.raises(ranks.SharedError, match="no number"):
            way(fail)
        with pytest.raises(ZeroDivisionError):
            way(lambda: 1 / 0)


def test_memory_that_was_freed_is_used_again_without_the_kernel():
    program = (
        "import resource, sys\n"
        "from DDA import ranks\n"
        "if sys.argv[1] == 'kept': ranks.keep_memory()\n"
        "def layers(): return [b'x' * (8 << 20) for _ in range(8)]\n"
        "layers()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(5): layers()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    kept, given_back = (
        int(call([sys.executable, "-c", program, how]).stdout) for how in ("kept", "given back")
    )
    if given_back < 10_000:
        pytest.skip("this C library keeps memory by itself")
    assert kept < given_back / 5


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_stop_leaves_the_handlers_of_signals_as_they_were(error):
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with contextlib.suppress(ValueError), ranks.Stop() as stop:
        assert [signal.getsignal(number) for number in numbers] != before and not stop
        signal.raise_signal(signal.SIGINT)
        assert stop
        if error:
            raise error
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_stop_outside_the_main_thread_changes_no_handler():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with ranks.Stop() as stop:
            seen.extend((signal.getsignal(signal.SIGINT), bool(stop)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, False]
