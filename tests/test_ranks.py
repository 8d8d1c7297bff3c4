import os
import subprocess
import sys
import textwrap
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
        told, ended = [], 0
        while world.rank == 0 and ended < size:
            for report in world.reports():
                ended += report is None
                told += [report] if report is not None else []
        if world.rank == 0:
            assert sorted(told) == [(r, i) for r in range(size) for i in range(3)], told
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
ENV = {name: value for name, value in os.environ.items() if not name.startswith(("PMI", "OMP", "SLURM", "TORCHELASTIC"))}
ENV["PYTHONPATH"] = str(Path(__file__).parents[1])
ENV["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}"


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "prog.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return str(path)


def call(command, **env):
    return subprocess.run(command, env={**ENV, **env}, capture_output=True, text=True, timeout=120, check=False)


def test_alone_is_rank_0_of_1(program):
    result = call([sys.executable, program])
    assert result.returncode == 0 and result.stdout.startswith("size 1 "), result.stderr


@pytest.mark.parametrize("count", [2, 3])
def test_mpiexec(program, count):
    pytest.importorskip("mpi4py")
    result = call(["mpiexec", "-n", str(count), sys.executable, program])
    share = max(1, len(os.sched_getaffinity(0)) // count)
    assert result.returncode == 0 and result.stdout == f"size {count} threads {share}\n", result.stderr


def test_torchrun(program):
    result = call([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", program])
    assert result.returncode == 0 and "size 2 " in result.stdout, result.stderr


def test_srun(program):
    """srun itself is not here: two processes with the environment that it gives."""
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


@pytest.mark.parametrize(("how", "word"), [("die", "KeyError"), ("fail", "")])
def test_one_rank_that_fails_ends_the_job_with_a_message(program, how, word):
    pytest.importorskip("mpi4py")
    result = call(["mpiexec", "-n", "2", sys.executable, program, how, "die"])
    assert result.returncode != 0
    assert "prog: error (rank 1 of 2): " in result.stderr and "on purpose" in result.stderr and word in result.stderr


def test_a_launcher_of_another_mpi_is_an_error_that_says_what_to_do(program):
    pytest.importorskip("mpi4py")
    result = call([sys.executable, program], OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0")
    assert result.returncode == 2
    assert "mpiexec started 2 processes, but mpi4py's MPI library says 1" in result.stderr


def test_a_launcher_without_mpi4py_is_an_error_that_says_what_to_do(program, tmp_path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("raise ImportError('not here')")
    result = call([sys.executable, program], PMI_SIZE="2", PMI_RANK="0", PYTHONPATH=f"{tmp_path}:{ENV['PYTHONPATH']}")
    assert result.returncode == 2 and "pip install mpi4py mpich" in result.stderr


def test_on_root_and_together_pass_errors_on_and_let_faults_through():
    world = ranks.World()
    for way in (world.on_root, world.together):
        with pytest.raises(ranks.SharedError, match="no number"):
            way(lambda: (_ for _ in ()).throw(ValueError("no number")))
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
    faults = {how: int(call([sys.executable, "-c", program, how]).stdout) for how in ("kept", "given back")}
    if faults["given back"] < 10_000:
        pytest.skip("this C library keeps memory by itself")
    assert faults["kept"] < faults["given back"] / 5
