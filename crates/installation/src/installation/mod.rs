//! One installation: its layout, its settings, and access to each crate below this one.
//!
//! Opened once per command. Opening does no work. Slow work (finding an interpreter, reading a commit) is done on first
//! use, and its result is kept, because it does not change during a command.

pub mod read_release;
mod release;
mod unread_definitions;

use std::cell::{OnceCell, RefCell};
use std::path::PathBuf;

use refresh_environments::{EnvironmentSpec, Environments, Interpreter, RecordedEnvironment, Site};
use refresh_events::run_report;
use refresh_git::Git;
use refresh_git::mirror::Mirror;
use refresh_programs::process::Runner;
use refresh_programs::systemd;
use refresh_programs::units::Units;
use refresh_service::envfile::EnvFile;
use refresh_service::probe::ResolvedProbe;
use refresh_service::supervisor::Embedded;
use refresh_service::systemd::Systemd;
use refresh_service::{ServiceManager, ServiceState, fence, probe};
use refresh_settings::Settings;
use refresh_settings::layers::Layers;
use refresh_settings::layout::Layout;
use refresh_settings::names::{BranchName, CommitId, EnvironmentName, RunId, without_credentials};
use refresh_settings::users::{BUILDER, owner_of_app};
use refresh_system::disk::{FileVersion, Owner};
use refresh_system::error::{Context as _, Outcome};
use refresh_system::hint::Hint;
use refresh_system::text::{quoted, quoted_path};

pub use release::Release;

/// A source of commits and packages that is used instead of the network.
pub trait OfflineSource: std::fmt::Debug {
    /// Returns the branch that the source has. `asked` is the requested branch, if any.
    ///
    /// # Errors
    /// The source is not for this machine, or it has another branch.
    fn branch(&self, on: &Installation, asked: Option<BranchName>) -> Outcome<BranchName>;

    /// Verifies everything that can be verified before anything of the installation is touched.
    ///
    /// # Errors
    /// The source cannot be used.
    fn verify(&self, on: &Installation) -> Outcome<()>;

    /// Ensures that the mirror has the commit of the source, holds it for `run`, and returns it.
    ///
    /// # Errors
    /// The source cannot be used, or the mirror cannot be written.
    fn ensure_commit(&self, on: &Installation, run: &RunId, branch: &BranchName) -> Outcome<CommitId>;

    /// Ensures that uv, lockfile and packages for an environment are in their places.
    ///
    /// # Errors
    /// The source cannot be used, or it has packages for other requirements.
    fn ensure_environment(&self, on: &Installation, wanted: &EnvironmentSpec) -> Outcome<()>;

    /// Returns the source in the form that the report of a run contains.
    fn report(&self) -> run_report::Bundle;
}

/// An installation and access to its parts.
pub struct Installation {
    /// The paths.
    pub layout: Layout,
    /// The layers that settings are resolved from, together with those of a commit.
    pub layers: Layers,
    /// The settings without those of a commit.
    pub settings: Settings,
    /// The owner of `app/` and the environments.
    pub owner: Owner,
    /// The user that owns the environments, and that reads everything that others wrote.
    pub builder: Owner,
    /// Starts other programs.
    pub runner: Runner,
    /// Starts sandboxed units.
    pub units: Units,
    git: Git,
    /// The mirror of the remote.
    pub mirror: Mirror,
    /// The service.
    pub service: Box<dyn ServiceManager>,
    /// The source of everything instead of the network, if the command has one.
    pub offline: Option<Box<dyn OfflineSource>>,
    interpreter: OnceCell<Interpreter>,
    env_file: RefCell<Option<(Option<FileVersion>, EnvFile)>>,
    /// The releases that were read: a commit never changes, so it is read once.
    releases: RefCell<Vec<Release>>,
}

impl Installation {
    /// Opens the installation that `layers` describe.
    ///
    /// # Errors
    /// A setting cannot be used, or git is missing.
    pub fn open(layers: Layers, runner: Runner) -> Outcome<Self> {
        let settings = layers.resolve()?;
        let layout = layers.layout.clone();
        let owner = owner_of_app(&layout)?;
        let git = Git::new(&runner, &layout)?;
        let units = Units::new(&layout, &runner, owner).with_sessions();
        let mirror = Mirror::new(&git, &layout, &settings.remote).in_units(&units);
        let service = manager(&settings, &runner);
        let builder = builder(&layout, owner);
        Ok(Self {
            layout,
            layers,
            settings,
            owner,
            builder,
            runner,
            units,
            git,
            mirror,
            service,
            offline: None,
            interpreter: OnceCell::new(),
            env_file: RefCell::default(),
            releases: RefCell::new(Vec::new()),
        })
    }

    /// Returns the same installation with an offline source, if there is one: then no network is used.
    #[must_use]
    pub fn with_offline_source(self, offline: Option<Box<dyn OfflineSource>>) -> Self {
        Self { offline, ..self }
    }

    /// Ensures that the mirror has the commit that `branch` points to, holds it for `run`, and returns it (RW-5.2a).
    ///
    /// # Errors
    /// The remote cannot be reached or has no such branch, or the bundle is refused.
    pub fn ensure_commit(&self, run: &RunId, branch: &BranchName) -> Outcome<CommitId> {
        match &self.offline {
            None => self.mirror.ensure(run, branch),
            Some(source) => source.ensure_commit(self, run, branch),
        }
    }

    /// Checks, without staging, that `branch` is available, as far as that can be checked before the stop.
    ///
    /// # Errors
    /// As [`Self::ensure_commit`].
    pub fn check_source(&self, branch: &BranchName) -> Outcome<()> {
        match &self.offline {
            None => self.mirror.remote_tip(branch).map(drop),
            Some(source) => source.verify(self),
        }
    }

    /// Returns git.
    pub fn git(&self) -> &Git {
        &self.git
    }

    /// Returns where and for which user environments are built.
    pub fn site(&self) -> Site<'_> {
        Site {
            runner: &self.runner,
            layout: &self.layout,
            python: &self.settings.python,
            owner: self.builder,
            offline: self.offline.is_some(),
            units: &self.units,
        }
    }

    /// Returns the environments.
    pub fn environments(&self) -> Environments<'_> {
        Environments::new(self.site())
    }

    /// Returns the name of the live environment, if `venv` leads to a known one.
    pub fn live(&self) -> Option<EnvironmentName> {
        Some(self.live_environment()?.name)
    }

    /// Returns the live environment, if `venv` leads to a known one.
    pub fn live_environment(&self) -> Option<RecordedEnvironment> {
        self.environments().current().ok()?.recorded().cloned()
    }

    /// Finds the interpreter that environments are built with.
    ///
    /// # Errors
    /// No interpreter can be used.
    pub fn interpreter(&self) -> Outcome<&Interpreter> {
        if let Some(found) = self.interpreter.get() {
            return Ok(found);
        }
        let found = Interpreter::find(self.site())?;
        Ok(self.interpreter.get_or_init(|| found))
    }

    /// Reads the service's environment file, with the rights of the service's user. An unchanged file is not read
    /// again: starting a unit takes longer than all other work with the file while the service is down.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn env_file(&self) -> Outcome<EnvFile> {
        let path = self.layout.env_file();
        let version = FileVersion::at(&path);
        if let Some((of, file)) = &*self.env_file.borrow()
            && version.is_some()
            && *of == version
        {
            return Ok(file.clone());
        }
        let file = EnvFile::read_as(&self.units, self.owner, &path)?;
        *self.env_file.borrow_mut() = Some((version, file.clone()));
        Ok(file)
    }

    /// Returns the port that the service listens on.
    ///
    /// # Errors
    /// The port in the env file cannot be used.
    pub fn port(&self) -> Outcome<u16> {
        let env_file = self.env_file()?;
        probe::service_port(&env_file)
    }

    /// Returns the probe that the host's settings define.
    ///
    /// # Errors
    /// The env file or the settings of the probe cannot be used.
    pub fn probe(&self) -> Outcome<ResolvedProbe> {
        let env_file = self.env_file()?;
        probe::resolve(&self.settings.probe, &env_file, None)
    }

    /// Returns whether the fence stands. If the fence cannot be read, the result is `true`.
    pub fn is_fenced(&self) -> bool {
        !matches!(fence::read(&self.layout), Ok(None))
    }

    /// Returns the state of the service for a report (RW-5.6c).
    pub fn service_report(&self, url: Option<String>) -> run_report::Service {
        let (state, pid) = match self.service.observe() {
            Ok(ServiceState::Running(running)) => ("running".to_owned(), Some(running.main.pid)),
            Ok(state) if state.is_down() => ("stopped".to_owned(), None),
            Ok(other) => (other.to_string(), None),
            Err(failure) => (format!("unknown ({failure})"), None),
        };
        run_report::Service { state, pid, url, check: None, fenced: self.is_fenced(), others: Vec::new() }
    }

    /// Returns the state of the service in words, for errors.
    pub fn service_in_words(&self) -> String {
        let service = self.service_report(None);
        let fenced = if service.fenced { " and fenced: nothing starts it" } else { "" };
        format!("{}{fenced}", service.state)
    }

    /// Returns a command of this program as it must be typed for this installation.
    pub fn as_typed(&self, command: &str) -> String {
        as_typed(&self.layout, command)
    }

    /// Returns a hint whose command of this program is written as it must be typed for this installation.
    pub fn typed(&self, hint: Hint) -> Hint {
        typed(&self.layout, hint)
    }

    /// Returns the log of a run.
    pub fn log_of(&self, run: &RunId) -> PathBuf {
        self.layout.run_log(run)
    }
}

/// Returns the user that builds environments, which owns nothing else. If it does not exist, and with `--root`: the
/// owner of the tree.
fn builder(layout: &Layout, owner: Owner) -> Owner {
    if !layout.is_real() || Owner::own().uid != 0 {
        return owner;
    }
    Owner::named(BUILDER).ok().flatten().unwrap_or(owner)
}

/// Chooses the service manager: systemd if it is the real machine's PID 1, else the embedded supervisor.
fn manager(settings: &Settings, runner: &Runner) -> Box<dyn ServiceManager> {
    if settings.layout.is_real() && systemd::is_booted() {
        let (layout, unit) = (settings.layout.clone(), settings.service.unit.clone());
        let systemd = Systemd::new(layout, unit, runner.clone()).with(settings.service.also.clone());
        Box::new(systemd.start_limit(settings.probe.deadline))
    } else {
        Box::new(Embedded::new(settings.layout.clone(), settings.service.clone()))
    }
}

/// The commands that need root on the real machine. `--help` lists them.
pub const FOR_ROOT: [&str; 14] = [
    "init",
    "run",
    "plan",
    "rollback",
    "cancel",
    "unfence",
    "stash",
    "lock",
    "service start",
    "service stop",
    "service restart",
    "service logs",
    "env prune",
    "bundle create",
];

/// Returns a text with every command of this program in it as the caller must type it for the installation at `layout`,
/// and with the paths of the configuration there.
pub fn as_typed(layout: &Layout, text: &str) -> String {
    // A container without systemd often has no sudo.
    let needs_sudo = !rustix::process::geteuid().is_root() && systemd::is_booted();
    typed_by(layout, needs_sudo, text)
}

fn typed_by(layout: &Layout, needs_sudo: bool, text: &str) -> String {
    let root = quoted_path(layout.root());
    let words: Vec<&str> = text.split(' ').collect();
    let typed = words.iter().enumerate().map(|(index, word)| {
        let is_command = is_own_program(word);
        let (before, after) = (index.checked_sub(1).map_or("", |index| words[index]), &words[index + 1..]);
        if let Some(rest) = word.strip_prefix("refresh.toml").filter(|_| before == "host's") {
            return format!("{}{rest}", layout.host_file().display());
        }
        if layout.is_real() {
            let is_to_change = is_command && needs_sudo && is_for_root(after) && !before.ends_with("sudo");
            return if is_to_change { word.replace("lady", "sudo lady") } else { (*word).to_owned() };
        }
        match after.first() {
            Some(next) if is_command && *next != "--root" => format!("{word} --root {root}"),
            _ if ["/etc/ladylinux/", "/etc/ladylinux-"].iter().any(|start| word.starts_with(start)) => {
                layout.root().join(&word[1..]).display().to_string()
            }
            _ => (*word).to_owned(),
        }
    });
    typed.collect::<Vec<_>>().join(" ")
}

fn is_own_program(word: &str) -> bool {
    word.trim_start_matches('`') == "ladylinux-refresh"
}

/// Returns whether the command whose arguments begin this text needs root. Other commands can follow in the text.
fn is_for_root(text: &[&str]) -> bool {
    let mut arguments = Vec::new();
    for word in text.iter().take_while(|word| !is_own_program(word)) {
        let argument = word.trim_end_matches(['`', ';', ',', ')']);
        arguments.push(argument);
        if argument != *word {
            break;
        }
    }
    let (line, has) = (arguments.join(" "), |option| arguments.contains(&option));
    !has("--help") && (has("--log") || FOR_ROOT.iter().any(|command| line.starts_with(command)))
}

/// Returns a hint whose command of this program is written as it must be typed for the installation at `layout`.
pub fn typed(layout: &Layout, hint: Hint) -> Hint {
    hint.map_line(|line| as_typed(layout, line))
}

/// Refuses a caller who cannot write to the tool's own state.
///
/// # Errors
/// The caller cannot write to it.
pub fn check_writable(layout: &Layout) -> Outcome<()> {
    for directory in [layout.state(), layout.store(), layout.volatile()] {
        let Err(error) = rustix::fs::access(&directory, rustix::fs::Access::WRITE_OK) else { continue };
        let hint = match error {
            rustix::io::Errno::NOENT => continue,
            rustix::io::Errno::ROFS => Hint::command("findmnt --target", &[&directory]),
            _ => permission_hint(layout),
        };
        return Err(error)
            .context(|| format!("{} is not writable", directory.display()))
            .map_err(|failure| failure.hint(hint));
    }
    Ok(())
}

/// Returns the hint that names the users who have the permission, with the command.
pub fn permission_hint(layout: &Layout) -> Hint {
    let hint = Hint::shell(with_sudo());
    if layout.is_real() {
        return hint;
    }
    hint.with_purpose("run it as the user who initialized the installation, or as root")
}

/// Returns the command line to type to run this process as root. The root is left out: [`as_typed`] adds it. So are the
/// credentials of an address, which no message repeats.
pub fn with_sudo() -> String {
    sudo(std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()))
}

fn sudo(words: impl Iterator<Item = String>) -> String {
    let mut command = "sudo ladylinux-refresh".to_owned();
    let mut words = words.filter(|word| !word.starts_with("--root=") && !word.starts_with("--worker="));
    while let Some(word) = words.next() {
        // Only the worker of a run has the second one.
        if word == "--root" || word == "--worker" {
            words.next();
        } else {
            command += &format!(" {}", quoted(&word_without_credentials(&word)));
        }
    }
    command
}

/// Returns a word of the command line without the credentials of an address. The user of an ssh address is none.
fn word_without_credentials(word: &str) -> String {
    if let Some((option, value)) = word.split_once('=').filter(|_| word.starts_with("--")) {
        return format!("{option}={}", word_without_credentials(value));
    }
    let Some((before, _)) = word.rsplit_once('@') else { return word.to_owned() };
    let (scheme, user) = before.rsplit_once("//").unwrap_or(("", before));
    let is_secret = user.contains(':') || scheme.to_ascii_lowercase().starts_with("http");
    if is_secret { without_credentials(word) } else { word.to_owned() }
}

impl std::fmt::Debug for Installation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Installation").field("layout", &self.layout).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_root_has_every_argument_except_the_root() {
        let sudo = |line: &str| sudo(line.split('|').map(str::to_owned));
        assert_eq!(sudo("run|--root|/a b|-b|feature/x"), "sudo ladylinux-refresh run -b feature/x");
        assert_eq!(sudo("--root|/a|run|main|--worker|r-1"), "sudo ladylinux-refresh run main");
        assert_eq!(sudo("--root=/a|config|check|$(x)"), "sudo ladylinux-refresh config check '$(x)'");
        for (typed, shown) in [
            ("--repo=https://u:s3cret@h/a", "--repo=https://h/a"),
            ("--repo|HTTPS://s3cret@h/a", "--repo HTTPS://h/a"),
            ("--repo|ssh://git:s3cret@h/a", "--repo ssh://h/a"),
            ("--repo=u:s3cret@h/a", "--repo=h/a"),
            ("--repo|ssh://git@h/a", "--repo ssh://git@h/a"),
            ("--repo|git@h:a", "--repo git@h:a"),
            ("--repo|https://h", "--repo https://h"),
        ] {
            assert_eq!(sudo(&format!("init|{typed}")), format!("sudo ladylinux-refresh init {shown}"));
        }
    }

    #[test]
    fn a_command_is_shown_as_it_must_be_typed() {
        let trial = Layout::below("/trial");
        assert_eq!(as_typed(&trial, "ladylinux-refresh run"), "ladylinux-refresh --root /trial run");
        assert_eq!(as_typed(&trial, "apt install git"), "apt install git");
        for text in
            ["allow it: ladylinux-refresh init", "sudo ladylinux-refresh run", "run `ladylinux-refresh run`"]
        {
            let typed = as_typed(&trial, text);
            assert_eq!(typed, text.replace("refresh ", "refresh --root /trial "));
            assert_eq!(as_typed(&trial, &typed), typed);
        }
        let file = "correct /etc/ladylinux/refresh.toml";
        assert_eq!(as_typed(&trial, file), "correct /trial/etc/ladylinux/refresh.toml");
        assert_eq!(as_typed(&trial, "/etc/ladylinux-refresh.toml"), "/trial/etc/ladylinux-refresh.toml");
        assert_eq!(as_typed(&Layout::below("/"), file), file);
        let hint = "keep = 3 in the host's refresh.toml";
        assert_eq!(as_typed(&trial, hint), "keep = 3 in the host's /trial/etc/ladylinux/refresh.toml");
        let real = Layout::below("/");
        let text = "start it: ladylinux-refresh run `ladylinux-refresh unfence`; ladylinux-refresh status";
        assert_eq!(typed_by(&real, false, text), text);
        let with_sudo = text.replace(": lady", ": sudo lady").replace("`lady", "`sudo lady");
        assert_eq!(typed_by(&real, true, text), with_sudo);
        assert_eq!(typed_by(&real, true, &with_sudo), with_sudo);
        let log = "ladylinux-refresh history .. --log";
        assert_eq!(typed_by(&real, true, log), format!("sudo {log}"));
        assert_eq!(typed_by(&real, true, &format!("`{log}` prints it")), format!("`sudo {log}` prints it"));
        for command in ["ladylinux-refresh init --help", "ladylinux-refresh status"] {
            assert_eq!(typed_by(&real, true, command), command);
            let both = format!("{command}; or {log}");
            assert_eq!(typed_by(&real, true, &both), format!("{command}; or sudo {log}"));
        }
    }
}
