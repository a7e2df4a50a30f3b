//! The deployment contract as paths below one root.
//!
//! `--root DIR` moves the installation below DIR, for trials, CI and tests. No other file of the program contains a
//! path of the contract.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::names::{EnvironmentName, RunId, UnitName};

/// The place of the store, below the root, unless the host's settings name another one.
const STORE: &str = "opt/ladylinux-refresh";

/// The possible places of the host's settings, below the root.
const HOST_FILES: [&str; 2] = ["etc/ladylinux/refresh.toml", "etc/ladylinux-refresh.toml"];

/// Every path of an installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    root: PathBuf,
    store: PathBuf,
    host_file: PathBuf,
}

impl Layout {
    /// Returns the directories whose files come from the application: its working tree and its environments.
    pub fn of_application(&self) -> Vec<PathBuf> {
        vec![self.app(), self.venv(), self.environments()]
    }

    /// Makes the layout below `root`, which must be absolute (`/` for a real machine).
    pub fn below(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let store = root.join(STORE);
        let host_file = root.join(HOST_FILES[0]);
        Self { root, store, host_file }
    }

    /// Returns the layout with the host's settings at `path`, one of [`Self::host_files`].
    #[must_use]
    pub(super) fn with_host_file(self, path: PathBuf) -> Self {
        Self { host_file: path, ..self }
    }

    /// Returns the layout with its store at `path` (setting `store`), which is absolute and applies below the root, as
    /// all paths do: `/srv/store` is `DIR/srv/store` with `--root DIR`.
    #[must_use]
    pub fn with_store(self, path: &Path) -> Self {
        let store = self.root.join(path.strip_prefix("/").unwrap_or(path));
        Self { store, ..self }
    }

    /// Returns the root of all paths.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns whether this is the real machine and not an installation below a directory.
    pub fn is_real(&self) -> bool {
        self.root == Path::new("/")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
    fn in_store(&self, path: &str) -> PathBuf {
        self.store.join(path)
    }
    fn in_state(&self, path: &str) -> PathBuf {
        self.state().join(path)
    }
    fn in_volatile(&self, path: &str) -> PathBuf {
        self.volatile().join(path)
    }

    /// The directories in which systemd searches for units; the first that has one wins (systemd.unit(5)).
    pub fn unit_directories(&self) -> Vec<PathBuf> {
        let others = ["run/systemd/system", "usr/local/lib/systemd/system"].map(|path| self.at(path));
        let mut directories = vec![self.host_units()];
        directories.extend(others);
        directories.extend([self.package_units(), self.at("lib/systemd/system")]);
        directories
    }
    /// `/etc/passwd` and `/etc/group`: the names of users and groups.
    pub fn accounts(&self) -> [PathBuf; 2] {
        ["etc/passwd", "etc/group"].map(|path| self.at(path))
    }
    /// The drop-in that makes a unit respect the fence.
    pub fn drop_in(&self, unit: &UnitName) -> PathBuf {
        self.package_units().join(format!("{unit}.d/50-ladylinux-refresh.conf"))
    }
    /// The host's settings, written by people: `/etc/ladylinux/refresh.toml`, or the other place if the service user
    /// can write to the first.
    pub fn host_file(&self) -> PathBuf {
        self.host_file.clone()
    }
    /// The possible places of the host's settings: `/etc/ladylinux/refresh.toml`, `/etc/ladylinux-refresh.toml`.
    pub fn host_files(&self) -> [PathBuf; 2] {
        HOST_FILES.map(|path| self.at(path))
    }
    /// `/var/lib/ladylinux/{data,cache,logs}`: the application's state. Persistent.
    pub fn data(&self) -> [PathBuf; 3] {
        ["data", "cache", "logs"].map(|name| self.persistent().join(name))
    }
    /// The paths that a refresh never writes to: models, containers, configuration, persistent data.
    pub fn protected(&self) -> Vec<PathBuf> {
        vec![self.models(), self.containers(), self.etc(), self.persistent()]
    }

    /// `/opt/ladylinux-refresh`, or the setting `store`: the large data of the tool, on the file system of `app/`.
    pub fn store(&self) -> PathBuf {
        self.store.clone()
    }
    /// The prepared tree of one run.
    pub fn tree(&self, run: &RunId) -> PathBuf {
        self.trees().join(run.as_str())
    }
    /// The tree that one run moved out of `app/`.
    pub fn previous_tree(&self, run: &RunId) -> PathBuf {
        self.previous_trees().join(run.as_str())
    }
    /// The stash of one run.
    pub fn stash(&self, run: &RunId) -> PathBuf {
        self.stashes().join(run.as_str())
    }
    /// The directory of one environment.
    pub fn environment(&self, name: &EnvironmentName) -> PathBuf {
        self.environments().join(name.as_str())
    }
    /// The place where a new mirror is created.
    pub(crate) fn new_mirror(&self) -> PathBuf {
        self.mirror().with_file_name("mirror.git.new")
    }

    /// The directory of one run: journal, log, report, saved changes.
    pub fn run(&self, id: &RunId) -> PathBuf {
        self.runs().join(id.as_str())
    }
    /// The log of one run.
    pub fn run_log(&self, id: &RunId) -> PathBuf {
        self.run(id).join("log")
    }
    /// The events of a run, for the processes that follow it.
    pub fn spool(&self, id: &RunId) -> PathBuf {
        self.volatile().join("runs").join(id.as_str())
    }
}

/// Makes a method of each line; it returns the path below one directory.
macro_rules! paths {
    ($($(#[$doc:meta])* pub fn $name:ident = $below:ident $path:literal;)*) => {
        impl Layout {
            $($(#[$doc])*
            pub fn $name(&self) -> PathBuf {
                self.$below($path)
            })*
        }
    };
}

paths! {
    /// `/opt/ladylinux`
    pub fn home = at "opt/ladylinux";
    /// `/opt/ladylinux/app`: the working tree. Replaceable.
    pub fn app = at "opt/ladylinux/app";
    /// `/opt/ladylinux/venv`: a symbolic link to the environment in use.
    pub fn venv = at "opt/ladylinux/venv";
    /// `/opt/ladylinux/models`: never touched (RW-6.1).
    pub fn models = at "opt/ladylinux/models";
    /// `/opt/ladylinux/containers`: never touched.
    pub fn containers = at "opt/ladylinux/containers";
    /// `/etc/ladylinux`: configuration, never touched.
    pub fn etc = at "etc/ladylinux";
    /// `/etc/ladylinux/ladylinux.env`: the service's environment file.
    pub fn env_file = at "etc/ladylinux/ladylinux.env";
    /// The directory of the units and drop-ins of packages. `init` installs its units here.
    pub fn package_units = at "usr/lib/systemd/system";
    /// The file of the users that systemd creates for the tool (sysusers.d(5)).
    pub fn sysusers = at "usr/lib/sysusers.d/ladylinux-refresh.conf";
    /// The file of the directories that systemd creates below `/run` at every boot.
    pub fn tmpfiles = at "usr/lib/tmpfiles.d/ladylinux-refresh.conf";
    /// The file with which apt reports a replaced Python after each change of packages (apt.conf(5)).
    pub fn apt_hook = at "etc/apt/apt.conf.d/99ladylinux-refresh";
    /// The directory of the host's own units.
    pub fn host_units = at "etc/systemd/system";
    /// The directory of units that exist until the next boot.
    pub fn volatile_units = at "run/systemd/system";
    /// `/var/lib/ladylinux`: the application's persistent state; the tool keeps nothing there.
    pub fn persistent = at "var/lib/ladylinux";
    /// The bare mirror of the remote.
    pub fn mirror = in_store "mirror.git";
    /// The prepared trees, one per run; accessible only by root (0700).
    pub fn trees = in_store "trees";
    /// The trees that runs moved out of `app/` and have not compared yet; accessible only by root (0700).
    pub fn previous_trees = in_store "previous";
    /// Previous trees that contain local changes; accessible only by root (0700), removed by `stash drop` only.
    pub fn stashes = in_store "stash";
    /// The environments.
    pub fn environments = in_store "environments";
    /// uv: the program and its cache.
    pub fn uv = in_store "uv";
    /// The files that `init --repair-layout` of version 0.1 moved out of the working tree; nothing removes them.
    pub fn moved_all = in_store "moved";
    /// `/var/lib/ladylinux-refresh`: the tool's own state, root's.
    pub fn state = at "var/lib/ladylinux-refresh";
    /// The directories that single operations may write to, one for each user.
    pub fn scratch = in_state "scratch";
    /// Records and manifests of the environments, kept outside of them.
    pub fn environment_records = in_state "environments";
    /// The locks: one for each set of definitions.
    pub fn locks = in_state "locks";
    /// The record of model files that were read before; it only saves time.
    pub fn models_known = in_state "models-known";
    /// Files that can be made again: commands create and remove them.
    pub fn cache = in_state "cache";
    /// One directory per run.
    pub fn runs = in_state "runs";
    /// The last result and the deployed version; replaced atomically, readable by the service's user.
    pub fn status_file = in_state "status.json";
    /// While this file exists, the service cannot start (RW-7.1a).
    pub fn fence = in_state "fence";
    /// When a person last requested a start of the service that failed.
    pub fn failed_start = in_state "failed-start.json";
    /// The units that were stopped with the service and will be started again.
    pub fn stopped_units = in_state "stopped-units.json";
    /// The deployed version, as environment variables for the service.
    pub fn deployed_env = in_state "deployed.env";
    /// The record of the files that the hooks of the last run made in the working tree.
    pub fn hook_outputs_file = in_state "made.json";
    /// The file that one run at a time locks; never unlinked.
    pub fn lock_file = in_state "lock";
    /// The embedded supervisor's directory: state, lock, control.
    pub fn supervisor = in_state "supervisor";
    /// `/run/ladylinux-refresh`: files that exist until the next boot.
    pub fn volatile = at "run/ladylinux-refresh";
    /// The directory in which the application puts its requests for a refresh; owned by the service user.
    pub fn requests = in_volatile "request";
    /// Exists only while a refresh starts the service through the fence.
    pub fn admit = in_volatile "admit";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_paths_of_the_contract_are_below_the_root() {
        let layout = Layout::below("/trial");
        assert_eq!(layout.app(), Path::new("/trial/opt/ladylinux/app"));
        assert!(layout.protected().iter().all(|path| path.starts_with("/trial")));
        for own in [layout.state(), layout.store(), layout.volatile()] {
            assert!(own.starts_with("/trial"));
            assert!(layout.protected().iter().all(|path| !own.starts_with(path)));
        }
        assert!(Layout::below("/").is_real());
    }

    #[test]
    fn the_store_moves_with_its_content_and_stays_below_the_root() {
        let layout = Layout::below("/trial").with_store(Path::new("/srv/big"));
        assert_eq!(layout.mirror(), Path::new("/trial/srv/big/mirror.git"));
        assert!(layout.environments().starts_with(layout.store()));
        assert_eq!(layout.state(), Path::new("/trial/var/lib/ladylinux-refresh"));
        assert_eq!(Layout::below("/").with_store(Path::new("/srv/big")).store(), Path::new("/srv/big"));
    }
}
