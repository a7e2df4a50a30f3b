//! One machine: booted, used, cut off from power, restored to a snapshot.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use refresh_programs::process::ProcessId;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::disk::{Disk, Store};
use super::files::Root;
use super::network::{Network, Socket};
use super::{Lab, PATH, Ran, cgroup, must, sweep};

/// The longest time to boot or to power off; on a busy host it is far from the usual time.
const PATIENCE: Duration = Duration::from_secs(120);

/// The signal that systemd takes for a request to power off: SIGRTMIN+4 (systemd(1)), with the C library's SIGRTMIN.
const POWER_OFF: &str = "-38";

/// The longest time of a command inside a machine, in seconds.
const DEADLINE_SECONDS: u32 = 300;

/// A machine that is being assembled.
#[derive(Debug)]
pub struct Builder {
    lab: Lab,
    name: String,
    network: Option<Network>,
    disk: Disk,
    groups: Groups,
}

/// The hierarchies of control groups of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// Those of this host.
    AsHere,
    /// Those of cgroup v1 alone.
    V1,
    /// That of cgroup v2 alone.
    V2,
}

/// One machine. Dropping it removes it.
#[derive(Debug)]
pub struct Machine {
    lab: Lab,
    /// The name of the machine, for itself and for others on its network.
    name: String,
    /// Its name on this host.
    id: String,
    directory: PathBuf,
    store: Store,
    socket: Option<Socket>,
    groups: Groups,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    nspawn: Child,
    /// PID 1 of the machine.
    leader: ProcessId,
}

impl Builder {
    /// Connects the machine to a network; otherwise it has only its own loopback.
    #[must_use]
    pub fn network(mut self, network: &Network) -> Self {
        self.network = Some(network.clone());
        self
    }

    /// Sets its disk.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disk = disk;
        self
    }

    /// Sets its control groups.
    #[must_use]
    pub fn groups(mut self, groups: Groups) -> Self {
        self.groups = groups;
        self
    }

    /// Makes and boots it.
    pub fn boot(self) -> Machine {
        let mut machine = self.build();
        machine.start();
        machine
    }

    /// Makes it, switched off.
    pub fn build(self) -> Machine {
        let machine = self.build_without_identity();
        let identity = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().replace('-', "");
        machine.write("/etc/machine-id", &identity);
        machine.write("/etc/hostname", &format!("{}\n", machine.name));
        machine
    }

    fn build_without_identity(self) -> Machine {
        let Self { lab, name, network, disk, groups } = self;
        let (id, directory) = lab.place();
        let socket = network.map(|network| network.join(&name, &id));
        let store = Store::new(&directory, &lab.base, disk);
        Machine { lab, name, id, directory, store, socket, groups, running: None }
    }
}

impl Machine {
    /// Begins a machine.
    pub fn named(lab: &Lab, name: &str) -> Builder {
        Builder {
            lab: lab.clone(),
            name: name.to_owned(),
            network: None,
            disk: Disk::Shared,
            groups: Groups::AsHere,
        }
    }

    /// Boots a machine without a network.
    pub fn boot(lab: &Lab, name: &str) -> Self {
        Self::named(lab, name).boot()
    }

    /// Boots a copy of the machine `name` that `set_up` has made. It is set up once in a test process, and each copy
    /// boots like the original after a power off.
    pub fn copy_of(lab: &Lab, name: &'static str, set_up: impl FnOnce(&Self)) -> Self {
        static ORIGINALS: Mutex<BTreeMap<&str, Arc<OnceLock<Machine>>>> = Mutex::new(BTreeMap::new());
        let original = Arc::clone(ORIGINALS.lock().unwrap().entry(name).or_default());
        let original = original.get_or_init(|| {
            let mut machine = Self::boot(lab, name);
            set_up(&machine);
            machine.power_off();
            machine.store.unmount();
            machine
        });
        let mut copy = Self::named(lab, name).build_without_identity();
        copy.store.stand_on(&original.store);
        copy.start();
        copy
    }

    /// Boots a machine on a network.
    pub fn boot_on(network: &Network, name: &str) -> Self {
        Self::named(network.lab(), name).network(network).boot()
    }

    /// The network that it is on.
    #[track_caller]
    pub fn network(&self) -> &Network {
        &self.socket.as_ref().expect("this machine is on no network").network
    }

    // Commands.

    /// Runs a line of shell as root, outside of any unit, as in a session of a user; 25 ms.
    #[track_caller]
    pub fn exec(&self, line: &str) -> Ran {
        self.run(["/bin/sh", "-c", line])
    }

    /// Runs a program as root.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Ran {
        let limit = DEADLINE_SECONDS.to_string();
        let output = self
            .command(&["timeout", "--kill-after=5", &limit], command)
            .output()
            .unwrap_or_else(|error| panic!("cannot run something in {}: {error}", self.name));
        let ran = Ran::of(output);
        assert_ne!(ran.code, Some(124), "not done after {limit} s\n{}", ran.all());
        ran
    }

    /// Runs a line of shell as another user.
    #[track_caller]
    pub fn exec_as(&self, user: &str, line: &str) -> Ran {
        let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
        self.run(["setpriv", &user, &group, "--init-groups", "--reset-env", "/bin/sh", "-c", line])
    }

    /// Runs a line of shell as root in a transient unit, with a separate cgroup; 60 ms. `properties` are those of
    /// systemd-run: `["User=ladylinux"]`.
    #[track_caller]
    pub fn exec_unit(&self, properties: &[&str], line: &str) -> Ran {
        let properties = properties.iter().flat_map(|property| ["-p", *property]);
        let command = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect"].into_iter();
        self.run(command.chain(properties).chain(["/bin/sh", "-c", line]))
    }

    /// Starts a line of shell as root and does not wait. The process leads its own process group; its output is piped;
    /// it dies with the machine.
    pub fn spawn(&self, line: &str) -> Child {
        let mut command = self.command(&[], ["/bin/sh", "-c", line]);
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs the tool, as root.
    #[track_caller]
    pub fn tool(&self, arguments: &str) -> Ran {
        self.exec(&format!("exec ladylinux-refresh {arguments}"))
    }

    /// The answer at a URL inside the machine; `None` without an answer or without success.
    pub fn http(&self, url: &str) -> Option<String> {
        let ran = self.run([
            "curl",
            "--fail",
            "--silent",
            "--show-error",
            "--connect-timeout",
            "10",
            "--max-time",
            "60",
            url,
        ]);
        (ran.code == Some(0)).then_some(ran.out)
    }

    /// The journal of a unit since this machine exists, without time stamps.
    #[track_caller]
    pub fn journal(&self, unit: &str) -> String {
        self.run(["journalctl", "--no-pager", "--output=cat", "--unit", unit]).expect(0).out
    }

    /// PID 1 of the machine on this host.
    #[track_caller]
    pub fn leader(&self) -> i32 {
        self.running.as_ref().unwrap_or_else(|| panic!("{} is off", self.name)).leader.pid
    }

    // Files.

    /// Returns the path on this host of a file on the machine's disk. The mounts of the machine (`/run`, `/tmp`) are
    /// not there, and an absolute link leads elsewhere: `read` and `write` support both.
    pub fn path(&self, path: &str) -> PathBuf {
        self.store.root().join(path.trim_start_matches('/'))
    }

    /// A directory on this host, not in the machine, that is removed with the machine.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Reads a file as the machine does; `None` if it does not exist.
    #[track_caller]
    pub fn read(&self, path: &str) -> Option<String> {
        Some(String::from_utf8(self.root().read(Path::new(path))?).unwrap())
    }

    /// Reads and parses a JSON file.
    #[track_caller]
    pub fn json(&self, path: &str) -> serde_json::Value {
        let text = self.read(path).unwrap_or_else(|| panic!("there is no {path} in {}", self.name));
        serde_json::from_str(&text).unwrap()
    }

    /// Writes a file of root that all users can read, with the directories above it.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        self.root().write(Path::new(path), text.as_bytes(), 0o644);
    }

    /// Writes a file of root with a mode.
    #[track_caller]
    pub fn write_mode(&self, path: &str, text: &str, mode: u32) {
        self.root().write(Path::new(path), text.as_bytes(), mode);
    }

    /// Copies a file of this host into the machine, as a file of root.
    #[track_caller]
    pub fn copy_in(&self, from: &Path, to: &str, mode: u32) {
        self.root().write(Path::new(to), &fs::read(from).unwrap(), mode);
    }

    /// Installs the program under test where people put it. Returns its path.
    #[track_caller]
    pub fn install_tool(&self) -> &'static str {
        let built = std::env::var_os("LADYLINUX_REFRESH_TEST_PROGRAM")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_ladylinux-refresh").into());
        let place = "/usr/local/bin/ladylinux-refresh";
        self.copy_in(Path::new(&built), place, 0o755);
        place
    }

    // Power.

    /// Boots it. If systemd-nspawn itself ended, there is a second attempt: a busy host may refuse the first one.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "{} runs already", self.name);
        let booted = self
            .boot_once()
            .or_else(|first| self.boot_once().map_err(|second| format!("{first}\nand again: {second}")));
        match booted {
            Ok(running) => self.running = Some(running),
            Err(refused) => panic!("{} does not boot: {refused}", self.name),
        }
    }

    /// Starts systemd-nspawn and waits until the machine reports that it is ready. Otherwise returns its output.
    fn boot_once(&self) -> Result<Running, String> {
        let address = self.directory.join("notify");
        let _ = fs::remove_file(&address);
        let notified = UnixDatagram::bind(&address).unwrap();
        notified.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let console = self.directory.join("console");
        let earlier = fs::read(&console).unwrap_or_default().len();
        let mut nspawn = self.nspawn(&address).spawn().unwrap();
        let mut leader = None;
        let end = Instant::now() + PATIENCE;
        let mut message = [0; 4096];
        loop {
            // Read before the messages, so that a message before the end is not missed.
            let ended = nspawn.try_wait().unwrap();
            let received = notified.recv(&mut message).unwrap_or(0);
            for line in String::from_utf8_lossy(&message[..received]).lines() {
                if let Some(pid) = line.strip_prefix("X_NSPAWN_LEADER_PID=") {
                    leader = ProcessId::of(pid.parse().unwrap());
                } else if let (Some(leader), "READY=1") = (leader, line) {
                    return Ok(Running { nspawn, leader });
                }
            }
            if Instant::now() > end || (ended.is_some() && received == 0) {
                let _ = nspawn.kill();
                let _ = nspawn.wait();
                cgroup::remove(&self.id);
                let printed = fs::read(&console).unwrap_or_default().split_off(earlier);
                return Err(format!("{ended:?}\n{}", String::from_utf8_lossy(&printed)));
            }
        }
    }

    /// Powers it off as people do: everything is stopped in order.
    #[track_caller]
    pub fn power_off(&mut self) {
        let Some(running) = &mut self.running else { return };
        must("kill", [POWER_OFF, &running.leader.pid.to_string()]);
        assert!(ended(&mut running.nspawn, PATIENCE), "{} does not power off", self.name);
        self.gone();
    }

    /// Powers it off and boots it again.
    #[track_caller]
    pub fn reboot(&mut self) {
        self.power_off();
        self.start();
    }

    /// Kills every process at once. Written data stays, even if it was not synced.
    #[track_caller]
    pub fn kill(&mut self) {
        if let Some(running) = &mut self.running {
            end_at_once(running);
        }
        self.gone();
    }

    /// Cuts the power: unsynced data that the disk had not written yet is lost. The machine stays off.
    #[track_caller]
    pub fn power_cut(&mut self) {
        self.store.cut();
        self.kill();
        self.store.unmount();
        self.store.mount();
    }

    /// Keeps a copy of the disk of the machine, which must be off.
    #[track_caller]
    pub fn snapshot(&self, name: &str) {
        assert!(self.running.is_none(), "{} is not off", self.name);
        self.store.snapshot(name);
    }

    /// Restores the disk of the machine, which must be off, from a copy.
    #[track_caller]
    pub fn restore(&self, name: &str) {
        assert!(self.running.is_none(), "{} is not off", self.name);
        self.store.restore(name);
    }

    /// The groups and everything in them are removed, so that the next boot begins with new ones.
    fn gone(&mut self) {
        self.running = None;
        cgroup::remove(&self.id);
    }

    fn root(&self) -> Root {
        match &self.running {
            Some(running) => Root::open(Path::new(&format!("/proc/{}/root", running.leader.pid))),
            None => Root::open(&self.store.root()),
        }
    }

    fn nspawn(&self, notify: &Path) -> Command {
        let console =
            fs::File::options().create(true).append(true).open(self.directory.join("console")).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &into(&cgroup::make(&self.id)), "sh", "systemd-nspawn", "--quiet"]);
        command.args(["--register=no", "--keep-unit", "--notify-ready=yes", "--console=read-only"]);
        command.args(["--resolv-conf=off", "--timezone=off", "--link-journal=no"]);
        command.arg(format!("--machine={}", self.id)).arg(format!("--hostname={}", self.name));
        command.arg("--directory").arg(self.store.root());
        command.arg(format!("--bind-ro={}:/srv/wheels", self.lab.wheels.display()));
        match &self.socket {
            Some(socket) => {
                command.arg(format!("--network-namespace-path={}", socket.namespace.display()));
                command.arg(format!("--bind-ro={}:/etc/hosts", socket.hosts.display()));
            }
            None => {
                command.arg("--private-network");
            }
        }
        command.arg("/usr/lib/ladylinux-lab/init");
        command.env_clear().env("PATH", PATH).env("NOTIFY_SOCKET", notify).stdin(Stdio::null());
        match self.groups {
            Groups::AsHere => {}
            Groups::V1 => {
                command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "0");
            }
            Groups::V2 => {
                command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
            }
        }
        command.stdout(console.try_clone().unwrap()).stderr(console);
        command
    }

    /// A command inside, in the control groups of PID 1, so that it counts as the machine's and not as this host's.
    fn command<A: AsRef<OsStr>>(&self, before: &[&str], command: impl IntoIterator<Item = A>) -> Command {
        let leader = self.leader();
        let mut started = Command::new("/bin/sh");
        started.args(["-c", &into(&cgroup::beside(leader)), "sh"]).args(before);
        started.args(["nsenter", "--all", "--target", &leader.to_string(), "--"]);
        started.args(["env", "-i", &format!("PATH={PATH}"), "HOME=/root", "LANG=C.UTF-8"]).args(command);
        started.env_clear().env("PATH", PATH).stdin(Stdio::null());
        started
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            end_at_once(running);
        }
        sweep::everything_named(&self.lab.worlds(), &self.id);
    }
}

/// Sends a signal to everything that [`Machine::spawn`] started.
pub fn signal(child: &Child, signal: Signal) {
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let _ = kill_process_group(group, signal);
}

/// A line of shell that moves itself into the control groups and executes the rest of its arguments.
fn into(doors: &[PathBuf]) -> String {
    let moves = doors.iter().map(|door| format!("echo $$ >'{}'; ", door.display()));
    moves.collect::<String>() + "exec \"$@\""
}

fn end_at_once(running: &mut Running) {
    if running.leader.is_alive()
        && let Some(leader) = Pid::from_raw(running.leader.pid)
    {
        let _ = kill_process(leader, Signal::KILL);
    }
    if !ended(&mut running.nspawn, Duration::from_secs(20)) {
        let _ = running.nspawn.kill();
        let _ = running.nspawn.wait();
    }
}

fn ended(child: &mut Child, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    while child.try_wait().is_ok_and(|ended| ended.is_none()) {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
