"""Who am I among the processes of this job: under mpiexec, torchrun, srun, or alone.

mpi4py is imported here and nowhere else, and only where an MPI launcher started the process.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class SharedError(Exception):
    """An error of the user's that every rank knows of: nothing is running, the job ends in order."""


class World:
    """A process alone: rank 0 of 1. The subclasses are the same for several processes.

    rank, size: of all processes of the job; local_rank: of those on this machine.
    """

    rank = 0
    size = 1
    local_rank = 0

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        return value

    def gather(self, value: Any) -> list:
        """All values in rank order, on every rank."""
        return [value]

    def report(self, value: Any) -> None:
        """Tell rank 0 something without waiting for it."""
        self._reports.append(value)

    def reports(self) -> list:
        """On rank 0: what has been reported, by any rank, since the last call."""
        news, self._reports = self._reports, []
        return news

    def abort(self) -> None:
        """End every process of the job now, with a non-zero status. Does not return where there are several."""

    def close(self) -> None:
        """Say that this process will ask for nothing more."""

    def __init__(self) -> None:
        self._reports: list = []

    def together(self, function: Callable[[], T]) -> T:
        """Run ``function`` on every rank; where it fails on any of them, every rank raises that `SharedError`."""
        outcome, error = None, None
        try:
            outcome = function()
        except (ValueError, OSError) as failure:
            error = f"{failure}"
        errors = self.gather(error)
        for rank, message in enumerate(errors):
            if message is not None:
                everywhere = self.size == 1 or errors.count(message) == self.size
                raise SharedError(message if everywhere else f"{message} (rank {rank})")
        return outcome

    def on_root(self, function: Callable[[], T]) -> T:
        """Run ``function`` on rank 0 alone; its result, or its failure as a `SharedError`, reaches every rank."""
        outcome, error, leave = None, None, None
        if self.rank == 0:
            try:
                outcome = function()
            except (ValueError, OSError) as failure:
                error = f"{failure}"
            except SystemExit as stop:  # of argparse, which has said its word
                leave = stop.code or 0
        outcome, error, leave = self.broadcast((outcome, error, leave))
        if error is not None:
            raise SharedError(error)
        if leave is not None:
            raise SystemExit(leave)
        return outcome

    def process_group(self, device_type: str) -> None:
        """Start torch's process group of all ranks: nccl between GPUs, else gloo."""
        import torch.distributed

        def free_address() -> str:
            with socket.socket() as probe:
                probe.bind(("", 0))
                port = probe.getsockname()[1]
            several = len({host for host, _ in hosts}) > 1
            return f"tcp://{socket.getfqdn() if several else '127.0.0.1'}:{port}"

        hosts = self.gather((platform.node(), self.rank))
        torch.distributed.init_process_group(
            "nccl" if device_type == "cuda" else "gloo",
            init_method=self.on_root(free_address),
            rank=self.rank,
            world_size=self.size,
        )

    def cpu_threads(self) -> int:
        """This process's share of the CPU cores: those it may use, divided among the processes that share them.

        OMP_NUM_THREADS has the last word (but torchrun sets it to 1 where the user did not).
        """
        wanted = _number("OMP_NUM_THREADS")
        if wanted and not (wanted == 1 and "TORCHELASTIC_RUN_ID" in os.environ):
            return wanted
        cores = _usable_cores()
        here = platform.node()
        sharers = [theirs for host, theirs in self.gather((here, cores)) if host == here and theirs & cores]
        return max(1, len(cores) // len(sharers))


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

    def abort(self) -> None:
        sys.stderr.flush()
        time.sleep(0.5)  # for the launcher to pass on what this process has said
        self._comm.Abort(1)


class _TorchDistributed(World):
    """torchrun and srun: rank and size from the environment, messages over a key-value store on rank 0's machine."""

    def __init__(self, rank: int, size: int, local_rank: int, address: str, port: int):
        super().__init__()
        from torch.distributed import PrefixStore, TCPStore

        self.rank, self.size, self.local_rank = rank, size, local_rank
        # torchrun's agent may already serve a store at this address
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store = TCPStore(address, port, size, is_master=rank == 0 and not agent, wait_for_workers=False)
        self._store = PrefixStore(f"diffaud/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        self._round = 0
        self._seen = [0] * size
        self._told = 0

    def broadcast(self, value: Any) -> Any:
        self._round += 1
        if self.rank == 0:
            self._store.set(f"broadcast/{self._round}", pickle.dumps(value))
            return value
        return self._wait(f"broadcast/{self._round}")

    def gather(self, value: Any) -> list:
        self._round += 1
        self._store.set(f"gather/{self._round}/{self.rank}", pickle.dumps(value))
        return [self._wait(f"gather/{self._round}/{rank}") for rank in range(self.size)]

    def report(self, value: Any) -> None:
        self._told += 1
        self._store.set(f"report/{self.rank}/{self._told}", pickle.dumps(value))

    def reports(self) -> list:
        if self._store.check(["aborted"]):
            self._leave()
        for rank in range(self.size):
            while self._store.check([f"report/{rank}/{self._seen[rank] + 1}"]):
                self._seen[rank] += 1
                key = f"report/{rank}/{self._seen[rank]}"
                self._reports.append(pickle.loads(self._store.get(key)))
                self._store.delete_key(key)
        return super().reports()

    def close(self) -> None:
        if self.rank == 0:  # the store may live in this process: the others leave first
            for rank in range(1, self.size):
                self._wait(f"closed/{rank}")
        else:
            self._store.set(f"closed/{self.rank}", pickle.dumps(True))

    def abort(self) -> None:
        self._store.set("aborted", b"")
        self._leave()

    def _leave(self) -> None:
        sys.stderr.flush()
        time.sleep(0.5)  # for the others to learn of it, where the store is in this process
        os._exit(1)

    def _wait(self, key: str) -> Any:
        while not self._store.check([key]):  # no time-out: another rank may compute for hours
            if self._store.check(["aborted"]):
                self._leave()
            time.sleep(0.05)
        return pickle.loads(self._store.get(key))


def start() -> World:
    """The world that this process's launcher made. Raises RuntimeError where launcher and MPI library do not fit."""
    size = _number("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    if size is None and "PMIX_RANK" in os.environ:
        size = _number("SLURM_STEP_NUM_TASKS")
    if size is not None and size > 1:
        return _start_mpi(size)
    if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
        rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return _TorchDistributed(rank, size, local_rank, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    size = _number("SLURM_STEP_NUM_TASKS")  # of srun; a batch script that runs python itself is one process
    if size is not None and size > 1 and "SLURM_PROCID" in os.environ:
        rank, local_rank = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_LOCALID"])
        port = 20000 + int(os.environ.get("SLURM_JOB_ID", "0")) * 7 % 20000
        return _TorchDistributed(rank, size, local_rank, _first_slurm_host(), port)
    return World()


def _start_mpi(size: int) -> World:
    try:
        world = _Mpi()
    except ImportError as error:
        raise RuntimeError(
            f"mpiexec started {size} processes, but mpi4py cannot be imported ({error}); "
            "install it with: pip install mpi4py mpich"
        ) from None
    if world.size != size:
        raise RuntimeError(
            f"mpiexec started {size} processes, but mpi4py's MPI library says {world.size}: they are two different MPIs. "
            "Use the mpiexec that belongs to mpi4py (with the mpich wheel: the one in the virtual environment's bin folder) "
            "or build mpi4py against this MPI: pip install --no-binary mpi4py --force-reinstall mpi4py"
        )
    return world


def run(main: Callable[[World], int], program: str, go_on: str) -> int:
    """Start the world, call ``main(world)`` and return the exit status, so that no process outlives a failure.

    program: name for messages. go_on: what the user does to go on after an interruption. A `SharedError` is printed once and
    every rank returns 2. Whatever else fails on this rank ends the whole job.
    """
    keep_memory()
    try:
        world = start()
    except RuntimeError as error:
        print(f"{program}: error: {error}", file=sys.stderr, flush=True)
        return 2
    where = f" (rank {world.rank} of {world.size})" if world.size > 1 else ""
    try:
        status = main(world)
    except SharedError as error:
        if world.rank == 0:
            print(f"{program}: error: {error}", file=sys.stderr, flush=True)
        status = 2
    except SystemExit as stop:
        status = stop.code
    except KeyboardInterrupt:
        print(f"{program}: interrupted{where}; {go_on}", file=sys.stderr, flush=True)
        world.abort()
        return 130
    except Exception as error:
        if not isinstance(error, OSError | ValueError):
            traceback.print_exc()
        print(f"{program}: error{where}: {error}", file=sys.stderr, flush=True)
        if isinstance(error, OSError):
            print(f"{program}: what was written is complete; {go_on}", file=sys.stderr, flush=True)
        world.abort()
        return 1
    world.close()
    return status


def keep_memory() -> None:
    """Let glibc reuse freed memory instead of giving it back.

    It hands blocks above 128 KiB, and the top of the heap, back to the kernel, which fills each page with zeros when the next
    layer wants it again: a fifth of the time of small networks on a CPU. Blocks above 32 MiB still go back. Other C libraries
    are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mmap_threshold, trim_threshold = -3, -1  # their names in malloc.h start with M_
        mallopt(mmap_threshold, 1 << 25)
        mallopt(trim_threshold, 1 << 30)


class Stop:
    """True once the user (Ctrl-C) or a scheduler (SIGTERM) asked to stop, so that work in hand can be finished; the second time
    it is a KeyboardInterrupt. Only the main thread may make one."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def __bool__(self) -> bool:
        return self._asked


def interrupt_on_sigterm() -> None:
    """Let a scheduler's SIGTERM stop the process as Ctrl-C does. Only the main thread may ask for it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _number(*names: str) -> int | None:
    for name in names:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return None


def _first_slurm_host() -> str:
    if os.environ.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1"
    nodes = os.environ["SLURM_STEP_NODELIST"]
    return subprocess.run(["scontrol", "show", "hostnames", nodes], check=True, capture_output=True, text=True).stdout.split()[
        0
    ]


def _usable_cores() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))
