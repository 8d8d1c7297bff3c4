"""The place of this process among those of its job: under mpiexec, torchrun, srun, or alone.

mpi4py is imported here and nowhere else, and only where an MPI launcher started the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import platform
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from DDA import interrupts
from DDA.progress import printable

T = TypeVar("T")

# a rank that waits for more seconds says for whom, and again when the wait has doubled
PATIENCE = 30.0
# seconds within which all ranks of a job have to meet: a later one is due to a mistake
START_LIMIT = 600.0


def say(program: str, text: str) -> None:
    """Tell the user something in a program's name, on stderr, as one piece beside other ranks'."""
    text = "\n".join(map(printable, text.split("\n")))
    print(f"{program}: {text}\n", end="", file=sys.stderr, flush=True)


def _speaker(program: str) -> Callable[[str], None]:
    return lambda text: say(program, text)


class SharedError(Exception):
    """An error of the user's that every rank knows.

    Nothing is running then, and the job ends in order.
    """


class World:
    """A process alone, which is rank 0 of 1. The subclasses stand for several processes.

    rank, size: of all processes of the job. local_rank: of those on this machine.
    """

    rank = 0
    size = 1
    local_rank = 0

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        return value

    def gather(self, value: Any) -> list:
        """Return all values in rank order, on every rank."""
        return [value]

    def report(self, value: Any) -> None:
        """Tell rank 0 something without waiting for it."""
        self._reports.append(value)

    def reports(self) -> list:
        """Return on rank 0 what any rank has reported since the last call."""
        news, self._reports = self._reports, []
        return news

    def abort(self, status: int = 1) -> None:
        """End every process of the job now, this one with ``status``, the others not with 0.

        It does not return where there are several processes.
        """

    def close(self) -> None:
        """Say that this process will ask for nothing more."""

    def __init__(self) -> None:
        self._reports: list = []

    def together(self, function: Callable[[], T]) -> T:
        """Run ``function`` on every rank and return its result.

        Where it fails on any of them, every rank raises that failure as a `SharedError`.
        """
        outcome, failure = None, None
        try:
            outcome = function()
        except (ValueError, OSError) as error:
            failure = error
        errors = self.gather(None if failure is None else f"{failure}")
        for rank, message in enumerate(errors):
            if message is not None:
                where = "" if errors.count(message) == self.size else f" (rank {rank})"
                raise SharedError(f"{message}{where}") from failure
        return outcome

    def on_root(self, function: Callable[[], T]) -> T:
        """Run ``function`` on rank 0 alone and return its result on every rank.

        Where it fails, every rank raises that failure as a `SharedError`.
        """
        outcome, failure, leave = None, None, None
        if self.rank == 0:
            try:
                outcome = function()
            except (ValueError, OSError) as error:
                failure = error
            except SystemExit as stop:  # argparse has printed why
                leave = stop.code or 0
        message = None if failure is None else f"{failure}"
        outcome, message, leave = self.broadcast((outcome, message, leave))
        if message is not None:
            raise SharedError(message) from failure
        if leave is not None:
            raise SystemExit(leave)
        return outcome

    def total(self, values: Sequence[float]) -> list[float]:
        """Return the sums of numbers over all ranks, on every rank.

        It is fast between `process_group` and its end.
        """
        if self.size == 1:
            return list(values)
        import torch.distributed

        if not torch.distributed.is_initialized():
            return [sum(column) for column in zip(*self.gather(list(values)), strict=True)]
        device = torch.cuda.current_device() if torch.distributed.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(tensor)
        return tensor.tolist()

    def mean(self, values: Sequence[float]) -> list[float]:
        """Return the means of numbers over all ranks, on every rank."""
        return [value / self.size for value in self.total(values)]

    @contextlib.contextmanager
    def process_group(self, device_type: str) -> Iterator[None]:
        """Open torch's process group of all ranks while the block runs.

        It uses nccl between GPUs, else gloo. One process needs none.
        """
        if self.size == 1:
            yield
            return
        import torch.distributed

        def free_address() -> str:
            with socket.socket() as probe:
                probe.bind(("", 0))
                port = probe.getsockname()[1]
            return f"tcp://{socket.getfqdn() if len(set(hosts)) > 1 else '127.0.0.1'}:{port}"

        hosts = self.gather(platform.node())
        torch.distributed.init_process_group(
            "nccl" if device_type == "cuda" else "gloo",
            init_method=self.on_root(free_address),
            rank=self.rank,
            world_size=self.size,
        )
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()

    def cpu_threads(self) -> int:
        """Return this process's share of the CPU cores that it may use.

        They are divided among the processes that share them. OMP_NUM_THREADS decides where it is
        set, unless it is the 1 that torchrun sets where the user did not.
        """
        wanted = _number("OMP_NUM_THREADS")
        if wanted and not (wanted == 1 and "TORCHELASTIC_RUN_ID" in os.environ):
            return wanted
        cores = _usable_cores()
        here = platform.node()
        everyone = self.gather((here, cores))
        sharers = [host for host, theirs in everyone if host == here and theirs & cores]
        return max(1, len(cores) // len(sharers))


def alone(work: Callable[[World], T]) -> T:
    """Call ``work`` with a world of this process alone, as a library does without a launcher.

    A `SharedError` becomes the error that it was: ValueError, FileNotFoundError, OSError.
    """
    try:
        return work(World())
    except SharedError as error:
        raise (error.__cause__ or ValueError(f"{error}")) from None


class _Mpi(World):
    def __init__(self) -> None:
        super().__init__()
        from mpi4py import MPI

        self._comm = MPI.COMM_WORLD
        self.rank, self.size = self._comm.rank, self._comm.size
        self.local_rank = self._comm.Split_type(MPI.COMM_TYPE_SHARED).rank
        self._sent: list = []

    def broadcast(self, value: Any) -> Any:
        return self._comm.bcast(value, root=0)

    def gather(self, value: Any) -> list:
        return self._comm.allgather(value)

    def report(self, value: Any) -> None:
        if self.rank == 0:
            super().report(value)
            return
        self._sent = [request for request in self._sent if not request.Test()]
        self._sent.append(self._comm.isend(value, dest=0))

    def reports(self) -> list:
        while self._comm.iprobe():
            self._reports.append(self._comm.recv())
        return super().reports()

    def abort(self, status: int = 1) -> None:
        sys.stderr.flush()
        time.sleep(0.5)  # time for the launcher to pass on this process's messages
        self._comm.Abort(status)


@dataclass(frozen=True)
class _Meeting:
    """The place where the ranks of one job meet, and advice for its user where they do not.

    job names this start of this job and no other. It keeps jobs apart that reach one store.
    """

    job: str
    address: str
    port: int
    served: bool  # whether torchrun's agent serves the store, and not rank 0
    if_taken: str  # advice, where another program has the port
    if_missing: str  # advice, where ranks do not come

    @property
    def place(self) -> str:
        return f"{self.address}:{self.port}"


class _Wait:
    """A wait of one rank for others. A long one is told on stderr, with those who are missing."""

    def __init__(self, program: str, rank: int):
        self._program, self._rank = program, rank
        self._began, self._next = time.monotonic(), PATIENCE
        self._since = time.strftime("%H:%M:%S")

    def pause(self, sentence: Callable[[], str]) -> float:
        """Sleep for a moment and return the seconds waited so far.

        sentence: returns what follows "rank 1 has waited 30 s for"; it is called when it is
        printed.
        """
        time.sleep(0.05)
        waited = time.monotonic() - self._began
        if waited >= self._next:
            self._next *= 2
            who = f"rank {self._rank} has waited {waited:.0f} s, since {self._since}"
            say(self._program, f"note: {who}, for {sentence()}")
        return waited


class _TorchDistributed(World):
    """A process that torchrun or srun started; it exchanges messages over a key-value store.

    Rank and size come from the environment. The store is on rank 0's machine, in torchrun's process
    or in that of rank 0.

    The ranks agree on a token before any value is exchanged, and every key of a value is under
    that token. A process of another job, or a second one of the same rank, is told so and leaves
    without having read or written a value. Nothing is unpickled before the ranks agree. srun was
    tried with plain processes that have its environment on one machine, not on a real cluster.
    """

    def __init__(self, rank: int, size: int, local_rank: int, meeting: _Meeting, program: str):
        super().__init__()
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._meeting, self._program = meeting, program
        self._serves = rank == 0 and not meeting.served
        self._server = "torchrun" if meeting.served else "rank 0"
        interrupts.allow()  # the wait for the others may take minutes
        self._agree(self._connect())
        self._round = 0
        self._seen = [0] * size
        self._sent = 0

    def _connect(self) -> Any:
        """Return the store. Raises RuntimeError where it cannot be served or does not answer.

        torch waits for it silently and does not react to Ctrl-C. Where a program that knows no such
        store has the port, torch waits forever. So a thread opens it.
        """
        import torch.distributed  # noqa: F401 - the import is no part of the wait for others

        outcome: list = []
        threading.Thread(target=self._open, args=(outcome,), daemon=True).start()
        server = "its own store" if self._serves else self._server
        self._await(lambda: bool(outcome), lambda: f"{server} at {self._meeting.place} to answer")
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def _open(self, outcome: list) -> None:
        """Put the store, or the error that says why there is none, into ``outcome``."""
        from torch.distributed import TCPStore

        meeting = self._meeting
        address = (meeting.address, meeting.port)
        while not self._serves:  # torch would print a page for each failed attempt
            with suppress(OSError), socket.create_connection(address, 5):
                break
            time.sleep(0.05)
        try:
            outcome.append(
                TCPStore(*address, self.size, is_master=self._serves, wait_for_workers=False)
            )
        except Exception as error:  # nobody would see it if it were raised in a thread
            who, text = f"rank {self.rank} of {meeting.job}", _first_line(error)
            if self._serves and "address already in use" in text.lower():
                text = (
                    f"{who} cannot serve the other ranks at {meeting.place}: another program has "
                    "this port, such as a second job on this machine or this command started "
                    f"twice. {meeting.if_taken}"
                )
            else:
                text = f"{who} has no connection to {self._server} at {meeting.place}: {text}"
            outcome.append(RuntimeError(text))

    def _agree(self, store: Any) -> None:
        """Wait until every rank of this job is here once; change to keys that only they know."""
        from torch.distributed import PrefixStore

        self._store = PrefixStore("diffaud", store)
        job, place = self._meeting.job, self._meeting.place
        everyone = {rank: f"{job}/here/{rank}" for rank in range(self.size)}
        token = f"{job}/token"
        awaited = list(everyone.values()) if self.rank == 0 else [token]
        if self._serves:
            self._ask("set", "host", job)
        if self._ask("add", everyone[self.rank], 1) > 1:
            raise RuntimeError(
                f"rank {self.rank} of {job} is there already, at {place}: this command was "
                "started twice for it. Start it once for each rank"
            )

        def agreed() -> bool:
            self._refuse_strangers()
            return self._ask("check", awaited)

        self._await(agreed, lambda: f"{_names(self._missing(everyone) or [0])} to start")
        if self.rank == 0:
            self._ask("set", token, secrets.token_hex(8))
        self._store = PrefixStore(f"diffaud/{job}/{self._ask('get', token).decode()}", store)

    def _refuse_strangers(self) -> None:
        """Raise RuntimeError where rank 0 of another job serves this store."""
        meeting = self._meeting
        if meeting.served or not self._ask("check", ["host"]):
            return
        if (host := self._ask("get", "host").decode(errors="replace")) != meeting.job:
            raise RuntimeError(
                f"rank {self.rank} of {meeting.job} looked for its rank 0 at {meeting.place} and "
                f"found that of another job there ({host}). {meeting.if_taken}"
            )

    def _await(self, ready: Callable[[], bool], missing: Callable[[], str]) -> None:
        """Wait until ``ready`` says so. Raises RuntimeError after START_LIMIT.

        missing: returns what is waited for.
        """
        wait = _Wait(self._program, self.rank)
        advice = f"({self._meeting.job}). {self._meeting.if_missing}"
        while not ready():
            if wait.pause(lambda: f"{missing()} {advice}") > START_LIMIT:
                gave_up = f"rank {self.rank} gave up after {START_LIMIT:.0f} s of waiting for"
                raise RuntimeError(f"{gave_up} {missing()} {advice}")

    def broadcast(self, value: Any) -> Any:
        self._round += 1
        key = f"broadcast/{self._round}"
        if self.rank == 0:
            self._ask("set", key, pickle.dumps(value))
            return value
        return self._collect({0: key})[0]

    def gather(self, value: Any) -> list:
        self._round += 1
        keys = {rank: f"gather/{self._round}/{rank}" for rank in range(self.size)}
        self._ask("set", keys[self.rank], pickle.dumps(value))
        return self._collect(keys)

    def report(self, value: Any) -> None:
        self._sent += 1
        self._ask("set", f"report/{self.rank}/{self._sent}", pickle.dumps(value))

    def reports(self) -> list:
        self._leave_if_aborted()
        for rank in range(self.size):
            while self._ask("check", [f"report/{rank}/{self._seen[rank] + 1}"]):
                self._seen[rank] += 1
                key = f"report/{rank}/{self._seen[rank]}"
                self._reports.append(pickle.loads(self._ask("get", key)))
                self._ask("delete_key", key)
        return super().reports()

    def close(self) -> None:
        if self.rank == 0:  # the store may be in this process, so the others leave first
            self._collect({rank: f"closed/{rank}" for rank in range(1, self.size)})
        else:
            self._ask("set", f"closed/{self.rank}", pickle.dumps(True))

    def abort(self, status: int = 1) -> None:
        with suppress(ConnectionError):  # the others have lost the connection as well
            self._ask("set", "aborted", b"")
        self._leave(status)

    def _leave_if_aborted(self) -> None:
        if self._ask("check", ["aborted"]):
            self._leave(1)

    def _leave(self, status: int) -> None:
        sys.stderr.flush()
        time.sleep(0.5)  # time for the others to learn of it from a store in this process
        os._exit(status)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Call the store. Raises ConnectionError where its server has ended."""
        try:
            return getattr(self._store, method)(*arguments)
        except RuntimeError as error:
            raise ConnectionError(
                f"the connection to {self._server} at {self._meeting.place} is lost: it has "
                f"ended or was killed; see what it said last ({_first_line(error)})"
            ) from None

    def _missing(self, keys: dict[int, str]) -> list[int]:
        return [rank for rank, key in keys.items() if not self._ask("check", [key])]

    def _collect(self, keys: dict[int, str]) -> list:
        """Return the values that the ranks put under these keys, once all of them are there."""
        wait = _Wait(self._program, self.rank)
        # no time-out: another rank may compute for hours
        while not self._ask("check", list(keys.values())):
            self._leave_if_aborted()
            wait.pause(lambda: _names(self._missing(keys)))
        return [pickle.loads(self._ask("get", key)) for key in keys.values()]


def start(program: str) -> World:
    """Return the world that this process's launcher made. program: its name for messages.

    Raises RuntimeError or OSError where launcher and MPI library do not fit, or where the ranks
    do not find each other.
    """
    size = _number("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    if not size and "PMIX_RANK" in os.environ:
        size = _number("SLURM_STEP_NUM_TASKS")
    if size > 1:
        return _start_mpi(size)
    if "TORCHELASTIC_RUN_ID" in os.environ and _number("WORLD_SIZE") > 1:
        return _start_torchrun(program)
    size = _number("SLURM_STEP_NUM_TASKS")  # srun alone sets it to several
    if size > 1 and "SLURM_PROCID" in os.environ:
        return _start_srun(size, program)
    return World()


def _start_torchrun(program: str) -> World:
    rank, size, local_rank = map(_number, ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    run_id = os.environ["TORCHELASTIC_RUN_ID"]
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    meeting = _Meeting(
        job=f"torchrun {run_id}, restart {restart}, {size} ranks",
        address=os.environ["MASTER_ADDR"],
        port=_number("MASTER_PORT"),
        served=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        if_taken="Run it again, or give torchrun a free --master-port",
        if_missing="torchrun starts every rank: see whether one of them has ended with an error",
    )
    return _TorchDistributed(rank, size, local_rank, meeting, program)


def _start_srun(size: int, program: str) -> World:
    job = _number("SLURM_JOB_ID", "SLURM_JOBID")
    step = _number("SLURM_STEP_ID", "SLURM_STEPID")  # the second is the older name
    restart = _number("SLURM_RESTART_COUNT")  # restarts of a job that was requeued
    wanted = os.environ.get("MASTER_PORT", "")
    remedy = "Unset MASTER_PORT" if wanted else "Run it again"
    if wanted and not (wanted.isdigit() and 0 < int(wanted) < 65536):
        raise RuntimeError(
            f"MASTER_PORT is {wanted!r}, not a number of 1 to 65535; set it to a free port for "
            "the messages between the ranks, or unset it"
        )
    meeting = _Meeting(
        job=f"Slurm job {job}, step {step}, restart {restart}, {size} ranks",
        address=_first_slurm_host(),
        port=int(wanted) if wanted else _slurm_port(job, step, restart),
        served=False,
        if_taken=f"{remedy}, or set MASTER_PORT to a free port",
        if_missing="srun starts every rank, but inside `srun --pty bash` nobody does: use "
        f"`srun --overlap --ntasks {size} COMMAND` there, or for one rank alone `env -u "
        "SLURM_STEP_NUM_TASKS COMMAND`",
    )
    return _TorchDistributed(
        _number("SLURM_PROCID"), size, _number("SLURM_LOCALID"), meeting, program
    )


def _slurm_port(job: int, step: int, restart: int) -> int:
    """Return a port of 20000 to 32762, below those that Linux gives to outgoing connections.

    Two steps get different ports if their jobs and steps differ by less than 99 each (by less than
    40 and 74 after up to three restarts).
    """
    return 20000 + (1005 * job + step + 2941 * restart) % 12763


def _start_mpi(size: int) -> World:
    """Return the world of MPI. Signals still wait: without one rank the others wait forever."""
    try:
        world = _Mpi()
    except ImportError as error:
        raise RuntimeError(
            f"mpiexec started {size} processes, but mpi4py cannot be imported ({error}); install "
            "it with: pip install mpi4py mpich"
        ) from None
    if world.size != size:
        raise RuntimeError(
            f"mpiexec started {size} processes, but mpi4py's MPI library says {world.size}: they "
            "are two different MPIs. Use the mpiexec that belongs to mpi4py (with the mpich "
            "wheel: the one in the virtual environment's bin folder) or build mpi4py against "
            "this MPI: pip install --no-binary mpi4py --force-reinstall mpi4py"
        )
    return world


def run(
    main: Callable[[World], int],
    program: str,
    go_on: str,
    say: Callable[[str], object] | None = None,
) -> int:
    """Start the world, call ``main(world)`` and return the exit status.

    No process outlives a failure. A `SharedError` is printed once and every rank returns 2. Any
    other failure on this rank ends the whole job.

    program: the name for messages. go_on: what the user does to go on after an interruption. say:
    prints a message (default: on stderr, after the program's name).
    """
    say = say or _speaker(program)
    keep_memory()
    try:
        world = start(program)
    except (RuntimeError, OSError) as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        interrupts.end()
        say("interrupted before all ranks were there")
        return 130
    where = f" (rank {world.rank} of {world.size})" if world.size > 1 else ""
    try:
        interrupts.allow()
        status = main(world)
    except SharedError as error:
        if world.rank == 0:
            say(f"error: {error}")
        status = 2
    except SystemExit as stop:
        status = stop.code
    except KeyboardInterrupt:
        interrupts.end()
        say(f"interrupted{where}; {go_on}")
        world.abort(130)
        return 130
    except Exception as error:
        if not isinstance(error, OSError | ValueError):
            traceback.print_exc()
        say(f"error{where}: {error}")
        if isinstance(error, OSError):
            say(f"what was written is complete; {go_on}")
        world.abort()
        return 1
    try:
        world.close()
    except ConnectionError as error:
        say(f"error{where}: {error}; {go_on}")
        return 1
    return status


def keep_memory() -> None:
    """Let glibc reuse freed memory instead of giving it back.

    By default it gives blocks above 128 KiB, and the top of the heap, back to the kernel. The
    kernel fills each page with zeros when the next layer wants it again, which takes a fifth of the
    time of small networks on a CPU. Blocks above 32 MiB still go back. Other C libraries are left
    as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD in malloc.h
        mallopt(mmap_threshold, 1 << 25)
        mallopt(trim_threshold, 1 << 30)


class Stop:
    """A flag that is true once the user (Ctrl-C) or a scheduler (SIGTERM) asked to stop.

    It lets the work in hand be finished. The second request is a KeyboardInterrupt. The signals
    are handled so inside of a ``with`` block, and as before after it. Outside the main thread,
    which alone receives signals, the flag stays false.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that Python did not set and cannot set again
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def __bool__(self) -> bool:
        return self._asked


def _number(*names: str) -> int:
    """Return the first of these variables of the environment that is a whole number, else 0."""
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 0)


def _names(ranks: Iterable[int]) -> str:
    """Return ranks as text, such as ``ranks 1, 2``: at most eight, and how many more there are."""
    ranks = list(ranks)
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:8]))}{more}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _first_slurm_host() -> str:
    if os.environ.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1"
    nodes = os.environ["SLURM_STEP_NODELIST"]
    shown = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], check=True, capture_output=True, text=True
    )
    return shown.stdout.split()[0]


def _usable_cores() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))
