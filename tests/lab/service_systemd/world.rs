//! A separate unit for each test, on the machine that the test runs on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use refresh_events::event::Events;
use refresh_programs::process::Runner;
use refresh_programs::systemd::Bus;
use refresh_service::ServiceManager;
use refresh_service::systemd::{Systemd, dropin};
use refresh_settings::layout::Layout;
use refresh_settings::names::UnitName;

use crate::service::{Bench, Script};

/// The variable that is set where this program runs on a machine of the lab.
pub(crate) const ON_A_MACHINE: &str = "LADYLINUX_REFRESH_TEST_ON_A_MACHINE";

/// The longest time in which a unit ends: one whose orphan ignores the request to end takes all of it.
const LONGEST_STOP: Duration = Duration::from_secs(8);

/// An installation below a separate directory, whose service is a Python script in a unit.
pub(crate) struct World {
    _directory: tempfile::TempDir,
    layout: Layout,
    pub(crate) unit: UnitName,
    port: u16,
}

/// A world whose unit contains only the usual lines.
pub(crate) fn bench(script: &Script) -> Box<dyn Bench> {
    Box::new(World::new(script, ""))
}

impl World {
    /// Makes a unit for `script` with further `lines` in its table `[Service]`, where a line may begin another table.
    pub(crate) fn new(script: &Script, lines: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(std::env::var_os(ON_A_MACHINE).is_some(), "this test runs on a machine of the lab");
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let layout = Layout::below(directory.path());
        for path in [layout.app(), layout.etc(), layout.state()] {
            fs::create_dir_all(path).unwrap();
        }
        let port = crate::port::free();
        fs::write(layout.env_file(), format!("LADYLINUX_PORT={port}\n")).unwrap();
        fs::write(layout.app().join("service.py"), &script.text).unwrap();
        let name = format!("world-{}.service", NUMBER.fetch_add(1, Ordering::Relaxed));
        let world = Self { _directory: directory, layout, unit: UnitName::parse(&name).unwrap(), port };
        let text = format!(
            "[Service]\nWorkingDirectory={}\nEnvironmentFile=-{}\nExecStart=/usr/bin/python3 service.py\n\
             TimeoutStopSec={}ms\n{lines}\n",
            world.layout.app().display(),
            world.layout.env_file().display(),
            script.stop_timeout.min(LONGEST_STOP).as_millis()
        );
        fs::write(world.unit_file(), text).unwrap();
        fs::create_dir_all(world.drop_in().parent().unwrap()).unwrap();
        fs::write(world.drop_in(), dropin::text(&world.layout, &world.unit)).unwrap();
        Bus::connect().unwrap().reload().unwrap();
        world
    }

    /// The manager under test, with its own type.
    pub(crate) fn systemd(&self) -> Systemd {
        let runner = Runner::new(Arc::new(Events::new(Vec::new())));
        Systemd::new(self.layout.clone(), self.unit.clone(), runner)
    }

    pub(crate) fn unit_file(&self) -> PathBuf {
        Path::new("/usr/lib/systemd/system").join(self.unit.as_str())
    }

    pub(crate) fn drop_in(&self) -> PathBuf {
        let directory = format!("/usr/lib/systemd/system/{}.d", self.unit);
        Path::new(&directory).join("50-ladylinux-refresh.conf")
    }

    /// Adds a unit beside it, named `world-N-NAME`.
    pub(crate) fn add_unit(&self, name: &str, text: &str) -> String {
        let stem = self.unit.as_str().trim_end_matches(".service");
        let name = format!("{stem}-{name}");
        fs::write(Path::new("/usr/lib/systemd/system").join(&name), text).unwrap();
        Bus::connect().unwrap().reload().unwrap();
        name
    }

    /// A property of the unit, as systemctl prints it.
    pub(crate) fn fact(&self, property: &str) -> String {
        let output = systemctl(&["show", "--value", "--property", property, self.unit.as_str()]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// The commands that people type.
pub(crate) fn systemctl(arguments: &[&str]) -> Output {
    Command::new("systemctl").args(arguments).output().unwrap()
}

impl Bench for World {
    fn layout(&self) -> &Layout {
        &self.layout
    }
    fn manager(&self) -> Box<dyn ServiceManager> {
        Box::new(self.systemd())
    }
    fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let stopped = self.systemd().stop();
        if !std::thread::panicking() {
            stopped.unwrap();
        }
    }
}
