#!/usr/bin/env python3
"""Refreshes a small real application, below one directory and without root, and prints each command with its output.

    demo/demo.py                 build the program, then show everything
    demo/demo.py --stop          end what the last demo left running

The demo makes a Git repository of `demo/app`, serves it on the loopback interface and then uses ladylinux-refresh as
a user would: init, refreshes, a migration that fails, rollback. The service and the repository stay, so you can push and refresh
more. The demo writes below its own directory only.
"""

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
# The entries that the demo creates in its directory; it removes only these.
OWN = ["root", "upstream", "work", "server.log"]
LOCK = "demo.lock"
# Below the ports that the kernel uses for outgoing connections.
PORTS = range(20_000, 30_000)
REPOSITORY = "ladylinux.git"
# The variables that mark the processes of a demo: the server's and the service's.
SERVER_MARK, SERVICE_MARK = "LADYLINUX_REFRESH_DEMO", "LADYLINUX_DATA"

# The application's versions: the directory that is copied over the version before, and the subject of the commit.
VERSIONS = {
    "initial": ("app", "Keep notes in SQLite and show the deployed version"),
    "headline": ("steps/2-headline", "Give the second edition its headline and colour"),
    "friendly times": ("steps/3-friendly-times", "Show the age of a note instead of its date"),
    "broken migration": ("steps/4-pinned-notes", "Let notes be pinned"),
    "repaired migration": (
        "steps/5-pinned-notes-repaired",
        "Give the new column a default, for tables that hold notes",
    ),
}


class DemoFailed(Exception):
    """The demo cannot continue; the text names the cause."""


class Demo:
    """One demo: its directory, its repository and the installation that it refreshes."""

    def __init__(self, directory, program):
        self.directory, lock = claimed(directory)
        # A demo is stopped with the program of its start.
        self.program = program or Path(lock.read().strip() or "/nonexistent")
        if program:
            lock.truncate(0)
            lock.write(f"{program}\n")
            lock.flush()
        self.lock = lock
        self.root = self.directory / "root"
        self.work = self.directory / "work"
        self.upstream = self.directory / "upstream"
        self.state = self.root / "var/lib/ladylinux-refresh"
        self.data = self.root / "var/lib/ladylinux/data"
        self.port = None
        self.url = None
        self.summary = []

    # The repository

    def git(self, directory, *arguments, **variables):
        """Runs git without the user's configuration and returns its output."""
        own = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0"}
        environment = os.environ | own | variables
        run = subprocess.run(["git", *arguments], cwd=directory, env=environment, capture_output=True, text=True)
        if run.returncode != 0:
            raise DemoFailed(f"git {arguments[0]} failed: {run.stderr.strip()}")
        return run.stdout.strip()

    def make_repository(self):
        """Makes a bare repository to serve, and a clone of it in which the versions are committed."""
        bare = self.upstream / REPOSITORY
        for directory in (bare, self.work):
            directory.mkdir(mode=0o700, parents=True)
        self.git(bare, "init", "--quiet", "--bare", "--initial-branch=main")
        self.git(self.work, "init", "--quiet", "--initial-branch=main")
        self.git(self.work, "config", "user.name", "LadyLinux Demo")
        self.git(self.work, "config", "user.email", "demo@localhost")
        self.git(self.work, "remote", "add", "origin", str(bare))

    def publish(self, version):
        """Commits and pushes a version; returns its commit. The same version is the same commit in every demo."""
        directory, subject = VERSIONS[version]
        no_byte_code = shutil.ignore_patterns("__pycache__")
        shutil.copytree(SOURCE / directory, self.work, ignore=no_byte_code, dirs_exist_ok=True)
        self.git(self.work, "add", "--all")
        date = f"2026-01-{12 + list(VERSIONS).index(version)}T09:00:00Z"
        dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        self.git(self.work, "commit", "--quiet", "--message", subject, **dates)
        self.git(self.work, "push", "--quiet", "--set-upstream", "origin", "main")
        commit = self.git(self.work, "rev-parse", "HEAD")
        print(f"pushed {commit[:10]} {subject}")
        return commit

    def serve(self):
        """Starts a server of the repository, which stays after the demo; returns the repository's URL."""
        port = free_port(but=self.port)
        daemon = ["git", "daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", "--export-all"]
        daemon += ["--informative-errors", "--timeout=60", f"--base-path={self.upstream}", str(self.upstream)]
        log = self.directory / "server.log"
        with log.open("ab") as output:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            variables = os.environ | {SERVER_MARK: str(self.directory), "GIT_CONFIG_GLOBAL": "/dev/null"}
            server = subprocess.Popen(daemon, cwd=self.directory, env=variables, start_new_session=True, **streams)
        end = time.monotonic() + 10
        while server.poll() is None and time.monotonic() < end:
            if takes_connections(port):
                return f"git://127.0.0.1:{port}/{REPOSITORY}"
            time.sleep(0.01)
        raise DemoFailed(f"git daemon does not serve on port {port}: {log.read_text().strip()}")

    # The installation

    def configure_service(self):
        """Writes the environment file of the service."""
        etc = self.root / "etc/ladylinux"
        etc.mkdir(parents=True)
        file = etc / "ladylinux.env"
        file.write_text(f"LADYLINUX_PORT={self.port}\n{SERVICE_MARK}={self.data}\n")
        file.chmod(0o600)

    def configure_host(self, remote):
        """Writes the host's settings: the remote, the start of the service and its health check."""
        (self.root / "etc/ladylinux/refresh.toml").write_text(
            f"""\
# Written by the demo.

[remote]
url = "{remote}"
allow = ["git"]

[service]
command = ["{{venv}}/bin/uvicorn", "api_layer:app", "--fd", "3"]
socket = true

[probe]
json_field = "commit"
json_value = "{{commit}}"
settle = "1s"
"""
        )

    def edit_deployed_files(self):
        """Changes a tracked file of the installation and adds another file."""
        app = self.root / "opt/ladylinux/app"
        for name, text in (("templates/page.html", "<!-- quick fix -->"), ("todo.txt", "remember the milk")):
            print(f"$ echo {shlex.quote(text)} >> {shlex.quote(str(app / name))}")
            with (app / name).open("a") as file:
                file.write(text + "\n")

    def command(self, *arguments):
        """Returns a command of the program for this installation, as a list."""
        return [str(self.program), "--root", str(self.root), *arguments]

    def play(self, title, *arguments, expected=(0,)):
        """Runs a command of the program and prints it with its output, its exit code and its times.

        A refresh of a service that runs is watched by a visitor. Raises DemoFailed for an exit code that is not
        expected.
        """
        print("$", shlex.join(self.command(*arguments)))
        is_refresh = arguments[0] in ("run", "rollback")
        visitor = Visitor(self.url) if is_refresh and 0 in expected and takes_connections(self.port) else None
        began = time.monotonic()
        with visitor or contextlib.nullcontext():
            process = subprocess.Popen(
                self.command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            for line in process.stdout:
                print("   ", line.rstrip())
            code = process.wait()
        took = time.monotonic() - began
        downtime = self.downtime() if is_refresh and code == 0 else None
        down = f", service down {readable(downtime)}" if downtime is not None else ""
        print(f"-- exit {code}, {readable(took)}{down}")
        if visitor:
            print(f"-- {visitor}")
        self.summary.append((title, code, took, downtime))
        if code not in expected:
            raise DemoFailed(f"'{title}' ended with exit code {code}")

    def downtime(self):
        """Returns the downtime of the service in the last run, in seconds; None without a downtime."""
        status = json.loads((self.state / "status.json").read_text())
        milliseconds = first_value(status, "downtime_ms")
        return None if milliseconds is None else milliseconds / 1000

    def expect_running(self, commit):
        """Checks the commit that the service reports. The edits of the demo must be gone from its tree."""
        url = f"{self.url}api/status"
        print("$ curl", url)
        answer = fetch(url, limit=10)
        print("   ", answer)
        if json.loads(answer)["commit"] != commit:
            raise DemoFailed(f"the service does not run {commit}")
        if (self.root / "opt/ladylinux/app/todo.txt").exists():
            raise DemoFailed("the deployed tree holds a file that is not part of the commit")

    def expect_down(self):
        """Checks that the service accepts no connection."""
        if takes_connections(self.port):
            raise DemoFailed(f"port {self.port} takes connections after the halt")
        print(f"port {self.port} takes no connection")

    # The beginning and the end

    def clear(self):
        """Ends what an earlier demo left running and removes its files. A user's work in the clone is kept."""
        self.end()
        if any((self.directory / name).exists() for name in OWN):
            print(f"    the earlier demo in {self.directory} is ended, and its files are removed")
        if (self.work / ".git").exists() and self.has_users_work():
            kept = self.directory / f"work.old-{int(time.time())}"
            self.work.rename(kept)
            print(f"    your work of the last demo is kept in {kept}")
        for name in OWN:
            path = self.directory / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def has_users_work(self):
        """Returns whether the clone has changes or commits that are not the demo's."""
        subjects = {subject for _, subject in VERSIONS.values()}
        changed = self.git(self.work, "status", "--porcelain")
        return bool(changed) or self.git(self.work, "log", "-1", "--format=%s", "--all") not in subjects

    def end(self):
        """Ends the service by the program's own command, then the server and all other processes of the demo."""
        if (self.state / "supervisor").exists() and self.program.exists():
            subprocess.run(self.command("service", "stop"), stdin=subprocess.DEVNULL, capture_output=True)
        end = time.monotonic() + 10
        while left := self.processes():
            if time.monotonic() > end:
                raise DemoFailed(f"process {left[0]} of the demo does not end")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def processes(self):
        """Returns the pids of this demo's server and service, by the variables that they were started with."""
        marks = {f"{SERVER_MARK}={self.directory}".encode(), f"{SERVICE_MARK}={self.data}".encode()}
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if marks & set((entry / "environ").read_bytes().split(b"\0")):
                        found.append(int(entry.name))
        return found

    def show(self, port):
        """Shows everything, from an empty directory to a service that runs the latest version."""
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}/"

        chapter("A small application, its repository, and an empty directory")
        self.make_repository()
        deployed = self.publish("initial")
        remote = self.serve()
        self.configure_service()
        self.play("init", "init", "--repo", remote, "--allow", "git")
        self.configure_host(remote)

        chapter("The first refresh: environment built, hooks run, service started and proved")
        self.play("first refresh", "run")
        self.expect_running(deployed)

        chapter("New source, same requirements; and the deployed files were edited by hand")
        self.edit_deployed_files()
        deployed = self.publish("headline")
        self.play("refresh: new source", "run")
        self.expect_running(deployed)
        self.play("what was kept", "stash", "list")

        chapter("One more package: the new environment is built while the old one serves")
        deployed = self.publish("friendly times")
        self.play("what would happen", "plan")
        self.play("refresh: changed requirements", "run")
        self.expect_running(deployed)

        chapter("A migration that fails: halted, stopped, fenced")
        self.publish("broken migration")
        self.play("refresh: broken migration", "run", expected=(1,))
        self.expect_down()
        print("Nothing starts the service now, not even a user by hand:")
        self.play("start behind the fence", "service", "start", expected=range(1, 126))
        self.expect_down()

        chapter("The way back: rollback to the version before")
        self.play("rollback", "rollback")
        self.expect_running(deployed)

        chapter("The way forward: the repaired migration")
        deployed = self.publish("repaired migration")
        self.play("refresh: repaired migration", "run")
        self.expect_running(deployed)
        self.play("status", "status")
        self.print_end()

    def print_end(self):
        """Prints the list of results, further commands, and the service's address as the last line."""
        chapter("What happened")
        print(f"{'':<32} {'exit':>4}  {'took':>8}  {'down':>8}")
        for title, code, took, downtime in self.summary:
            down = "-" if downtime is None else readable(downtime)
            print(f"{title:<32} {code:>4}  {readable(took):>8}  {down:>8}")
        chapter("What to try next")
        print("The service and its repository stay:")
        for arguments in ("status", "history", "stash list", "plan"):
            print("   ", shlex.join(self.command(*arguments.split())))
        print("Change something, push it, refresh:")
        print(f"    cd {shlex.quote(str(self.work))} && $EDITOR templates/page.html")
        print(f"    git commit -am 'Try it' && git push && {shlex.join(self.command('run'))}")
        print("End everything and remove it:")
        print("   ", self.stop_command())
        print("    chmod -R u+w", shlex.quote(str(self.directory)), "&& rm -rf", shlex.quote(str(self.directory)))
        print("\nThe service answers at:")
        print(self.url)

    def stop_command(self):
        """Returns the line that ends what the demo leaves running."""
        return shlex.join([sys.argv[0], "--dir", str(self.directory), "--stop"])


class Visitor:
    """Sends requests to the service all the time, as a context; counts them and those that fail."""

    def __init__(self, url):
        self.url = url
        self.requests = self.failed = 0
        self.longest = 0.0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.ask)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.thread.join()

    def ask(self):
        while not self.is_over.wait(0.002):
            began = time.monotonic()
            try:
                fetch(self.url, limit=120)
            except OSError:
                self.failed += 1
            self.requests += 1
            self.longest = max(self.longest, time.monotonic() - began)

    def __str__(self):
        counts = f"meanwhile a visitor made {self.requests} requests: {self.failed} failed"
        return f"{counts}, the longest took {readable(self.longest)}"


def claimed(directory):
    """Makes or takes over the directory and locks it; returns its real path and the locked file.

    Raises DemoFailed if other users can write in it, if it contains other files than a demo, or if another
    demo uses it.
    """
    directory = Path(os.path.abspath(directory))
    directory.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    cause = None
    if directory.is_symlink() or not directory.is_dir():
        cause = "it is not a directory"
    elif found.st_uid != os.geteuid():
        cause = "it belongs to another user"
    elif found.st_mode & 0o022:
        cause = "other users can write in it"
    elif (names := os.listdir(directory)) and LOCK not in names:
        cause = "it holds something else"
    if cause is None:
        flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW
        lock = os.fdopen(os.open(directory / LOCK, flags, 0o600), "r+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            cause = "another demo uses it"
    if cause is not None:
        raise DemoFailed(f"cannot use {directory} for a demo: {cause}; choose another one with --dir DIR")
    return directory.resolve(), lock


def built():
    """Builds the program and returns its path."""
    manifest = str(SOURCE.parent / "Cargo.toml")
    build = ["cargo", "build", "--release", "--locked", "--bin", "ladylinux-refresh", "--manifest-path", manifest]
    print("$", shlex.join(build), flush=True)
    if subprocess.run(build).returncode != 0:
        raise DemoFailed("cargo cannot build the program")
    metadata = ["cargo", "metadata", "--format-version=1", "--no-deps", "--manifest-path", manifest]
    target = json.loads(subprocess.run(metadata, capture_output=True, check=True).stdout)["target_directory"]
    return Path(target) / "release/ladylinux-refresh"


def chapter(title):
    print(f"\n== {title}")


def readable(seconds):
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def fetch(url, limit):
    """Returns the successful answer of a server on the loopback interface. Raises OSError for any other answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(url, timeout=limit).read().decode()


def takes_connections(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port(but=None):
    """Returns a port of the loopback interface that is free. Demos that start together begin at different ones."""
    offset = os.getpid() * 37 % len(PORTS)
    for port in [*PORTS[offset:], *PORTS[:offset]]:
        with socket.socket() as candidate, contextlib.suppress(OSError):
            if port != but:
                candidate.bind(("127.0.0.1", port))
                return port
    raise DemoFailed(f"there is no free port from {PORTS[0]} to {PORTS[-1]}")


def first_value(value, name):
    """Returns the first value of this name in JSON, at any depth."""
    if not isinstance(value, dict):
        return None
    if value.get(name) is not None:
        return value[name]
    found = (first_value(inner, name) for inner in value.values())
    return next((inner for inner in found if inner is not None), None)


def arguments_of_user():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(tempfile.gettempdir()) / f"ladylinux-demo-{os.geteuid()}"
    parser.add_argument("--dir", type=Path, default=default, help="the demo's directory (%(default)s)")
    parser.add_argument("--port", type=int, help="the port of the service; by default a free one")
    parser.add_argument("--program", type=Path, help="the program; by default it is built from this source")
    parser.add_argument("--stop", action="store_true", help="end what an earlier demo left running")
    return parser.parse_args()


def main():
    arguments = arguments_of_user()
    sys.stdout.reconfigure(line_buffering=True)
    if arguments.stop and not arguments.dir.is_dir():
        raise DemoFailed(f"there is no demo in {arguments.dir}")
    if arguments.stop:
        demo = Demo(arguments.dir, None)
        demo.end()
        print(f"the demo is stopped; its files are left in {demo.directory}")
        return
    demo = Demo(arguments.dir, arguments.program.resolve() if arguments.program else built())
    try:
        demo.clear()
        demo.show(arguments.port)
    except (DemoFailed, OSError) as failure:
        raise DemoFailed(f"{failure}\nto end what is left running: {demo.stop_command()}") from failure


if __name__ == "__main__":
    try:
        main()
    except DemoFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
