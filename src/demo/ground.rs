//! The folder of a demo: claimed so that nobody else can interfere, cleared of what an earlier demo left.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use super::repository::Repository;
use crate::clock;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::identity::all_pids;
use crate::process::{Owner, ProcessId, Program, Runner};
use crate::report::shell::quoted;
use crate::settings::environment;
use crate::settings::layout::Layout;

/// The variable that marks the server of a demo with the demo's folder.
pub(super) const MARK: &str = "LADYLINUX_REFRESH_DEMO";
/// The file that makes a folder a demo's; it is locked while a demo is under way there.
const LOCK: &str = "demo.lock";
/// Everything else that a demo makes in its folder, and so all that it ever removes there.
const OWN: [&str; 4] = ["root", "upstream", "work", "server.log"];
/// Where ports are looked for: below those that the kernel gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A folder that belongs to this demo for as long as the value lives.
#[derive(Debug)]
pub(super) struct Ground {
    folder: PathBuf,
    _lock: File,
}

impl Ground {
    /// Makes the folder, or takes over one that is ours, and locks it.
    ///
    /// # Errors
    /// The folder belongs to somebody else, others can write in it, it holds other things than a demo, or another
    /// demo is under way in it.
    pub(super) fn claim(folder: &Path) -> Outcome<Self> {
        let told = || format!("cannot use {} for a demo", folder.display());
        let folder = std::path::absolute(folder).context(told)?;
        match fs::symlink_metadata(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Some(parent) = folder.parent() {
                    disk::make_folder(parent, 0o755)?;
                }
                disk::make_owned_folder(&folder, 0o700, &Owner::own())?;
            }
            Err(error) => return Err(error).context(told),
            Ok(_) => {}
        }
        // Looked at after it was made: whoever put something in its place in the meantime is seen here.
        let found = fs::symlink_metadata(&folder).context(told)?;
        let refuse = |why: &str| {
            Err(Failure::new(told())
                .because(Failure::new(why.to_owned()))
                .hint("choose another folder: ladylinux-refresh demo --dir DIR"))
        };
        if !found.is_dir() {
            return refuse("it is not a folder");
        }
        if found.uid() != Owner::own().uid {
            return refuse("it belongs to another user");
        }
        if found.mode() & 0o022 != 0 {
            return refuse("other users can write in it");
        }
        let entries = fs::read_dir(&folder).context(told)?;
        let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        if !names.is_empty() && !names.iter().any(|name| name == LOCK) {
            return refuse("it holds something else");
        }
        let lock = disk::open_lock(&folder.join(LOCK))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return refuse("another demo is under way in it");
        }
        let folder = fs::canonicalize(&folder).context(told)?;
        Ok(Self { folder, _lock: lock })
    }

    /// Returns a path in the folder.
    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the installation that the demo refreshes.
    pub(super) fn layout(&self) -> Layout {
        Layout::below(self.at("root"))
    }

    /// Returns a command of this program on the demo's installation.
    pub(super) fn product(&self, runner: &Runner, words: &[&str]) -> Program {
        let mut program = Program::new(runner.own_program())
            .arg("--root")
            .arg(self.at("root"))
            .args(words)
            .deadline(Duration::from_secs(1800));
        for name in ["HOME", "PATH", "TMPDIR", "XDG_CACHE_HOME"] {
            if let Some(value) = environment::variable(name) {
                program = program.env(name, value);
            }
        }
        for (name, value) in environment::network() {
            program = program.env(name, value);
        }
        program
    }

    /// Returns the line that ends what this demo leaves running.
    pub(super) fn stop_command(&self) -> String {
        format!("{} demo --dir {} --stop", typed_name(), quoted(&self.folder.to_string_lossy()))
    }

    /// Ends what an earlier demo left running and removes what it made.
    ///
    /// # Errors
    /// Something cannot be ended or removed.
    pub(super) fn clear(&self, runner: &Runner) -> Outcome<()> {
        self.end_everything(runner)?;
        if OWN.iter().any(|name| self.at(name).exists()) {
            let folder = self.folder.display();
            runner
                .events()
                .note(&format!("the earlier demo in {folder} is ended, and its files are removed"));
        }
        if Repository::is_touched(runner, &self.folder)? {
            let kept = self.at(&format!("work.old-{}", clock::now().as_second()));
            disk::move_new(&self.at("work"), &kept)?;
            runner.events().note(&format!("your work of the last demo is kept in {}", kept.display()));
        }
        for name in OWN {
            disk::remove_tree(&self.at(name))?;
        }
        Ok(())
    }

    /// Ends the service, by the product's own command, and the server; returns what had to be ended besides.
    ///
    /// # Errors
    /// A process of this demo is still there after SIGKILL.
    pub(super) fn end_everything(&self, runner: &Runner) -> Outcome<Vec<String>> {
        if self.layout().supervisor().exists() {
            // The service of a demo that was cut short may be in any state; what this leaves is found below.
            let stopped = runner.run(&self.product(runner, &["service", "stop"]));
            if let Some(signal) = stopped.err().and_then(|failure| failure.interrupted_by()) {
                return Err(Failure::interrupted(signal));
            }
        }
        let mut ended = Vec::new();
        let limit = clock::monotonic() + Duration::from_secs(10);
        loop {
            let left = self.processes();
            let patience_is_over = clock::monotonic() > limit;
            for process in &left {
                let command = process.command();
                let name = command.split_whitespace().next().unwrap_or_default();
                let line = format!("{} ({})", process.pid, name.rsplit('/').next().unwrap_or_default());
                if !ended.contains(&line) {
                    ended.push(line);
                }
                if let Some(pid) = Pid::from_raw(process.pid) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            match left.first() {
                None => return Ok(ended),
                Some(process) if patience_is_over => {
                    return Err(Failure::new(format!("process {} of the demo cannot be ended", process.pid))
                        .hint(format!("look at /proc/{}/stack as root", process.pid)));
                }
                Some(_) => clock::pause(Duration::from_millis(10))?,
            }
        }
    }

    /// Finds the processes of this demo: the server by its mark, a service by the data folder that it was given.
    fn processes(&self) -> Vec<ProcessId> {
        let folder = self.folder.to_string_lossy();
        let [data, ..] = self.layout().data();
        let data = data.to_string_lossy();
        all_pids()
            .into_iter()
            .filter_map(ProcessId::of)
            .filter(|process| *process != ProcessId::own())
            .filter(|process| {
                process.variable(MARK).as_deref() == Some(&folder)
                    || process.variable("LADYLINUX_DATA").as_deref() == Some(&data)
            })
            .collect()
    }
}

/// Returns how this program would be called from a shell: its name where the PATH leads to it, else its path.
pub(super) fn typed_name() -> String {
    let Ok(own) = std::env::current_exe() else { return "ladylinux-refresh".to_owned() };
    let name = own.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match environment::find_program(&name, false).and_then(|found| fs::canonicalize(found).ok()) {
        Some(found) if found == own => name,
        _ => quoted(&own.to_string_lossy()),
    }
}

/// Finds a port of the loopback interface that nobody listens on and that is none of `taken`; demos that start
/// together begin their search at different ones.
///
/// # Errors
/// There is none.
pub(super) fn free_port(taken: &[u16]) -> Outcome<u16> {
    let width = PORTS.end - PORTS.start;
    let turn = u16::try_from(ProcessId::own().pid.unsigned_abs() % u32::from(width)).unwrap_or(0);
    let offset = turn.wrapping_mul(37) % width;
    (0..width)
        .map(|step| PORTS.start + (offset + step) % width)
        .filter(|port| !taken.contains(port))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| Failure::new(format!("no free port from {} to {}", PORTS.start, PORTS.end - 1)))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test prepares the folders that it looks at")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    use crate::event::{Event, Events, Subscriber};

    #[test]
    fn a_folder_is_made_for_its_user_alone_and_claimed_by_one_demo_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("inner/demo");
        let ground = Ground::claim(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        assert!(Ground::claim(&folder).unwrap_err().chain()[1].contains("under way"));
        drop(ground);
        assert!(Ground::claim(&folder).is_ok());
    }

    #[test]
    fn a_folder_that_is_not_a_demos_or_not_ours_alone_is_refused() {
        let full = tempfile::tempdir().unwrap();
        fs::write(full.path().join("thesis.txt"), b"x").unwrap();
        assert!(Ground::claim(full.path()).unwrap_err().chain()[1].contains("something else"));

        let open = tempfile::tempdir().unwrap();
        fs::set_permissions(open.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Ground::claim(open.path()).unwrap_err().chain()[1].contains("other users"));

        let link = full.path().join("link");
        std::os::unix::fs::symlink(open.path(), &link).unwrap();
        assert!(Ground::claim(&link).unwrap_err().chain()[1].contains("not a folder"));
    }

    #[test]
    fn what_is_removed_of_an_earlier_demo_is_told() {
        let parent = tempfile::tempdir().unwrap();
        let ground = Ground::claim(&parent.path().join("demo")).unwrap();
        let told = |ground: &Ground| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let events = Events::new(vec![Box::new(Told(sender))]);
            ground.clear(&Runner::new(std::sync::Arc::new(events))).unwrap();
            receiver.try_iter().collect::<Vec<String>>()
        };
        assert_eq!(told(&ground), [""; 0]);
        fs::write(ground.at("server.log"), b"x").unwrap();
        let told = told(&ground);
        assert!(told.len() == 1 && told[0].contains("its files are removed"), "{told:?}");
        assert!(!ground.at("server.log").exists());
    }

    /// Passes notes on.
    #[derive(Debug)]
    struct Told(std::sync::mpsc::Sender<String>);

    impl Subscriber for Told {
        fn take(&mut self, event: &Event) {
            if let Event::Note { message, .. } = event {
                let _ = self.0.send(message.clone());
            }
        }
    }

    #[test]
    fn a_free_port_is_neither_taken_nor_listened_on() {
        let one = free_port(&[]).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, one));
        let other = free_port(&[one]).unwrap();
        assert_ne!(one, other);
        drop(listener);
    }
}
