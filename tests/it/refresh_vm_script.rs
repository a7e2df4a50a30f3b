//! `scripts/refresh_vm.sh`: the programs that it starts, their arguments, and the programs that it refuses to start.
//!
//! The script has the paths of the installed program as constants, which nothing can override. So each test runs a copy
//! in which these two lines are replaced: by a directory of the test, and by the test's own user instead of root.

#![expect(clippy::unwrap_used, reason = "in a test an unexpected error is a failure")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use refresh_events::event::Events;
use refresh_programs::process::{ChildEnd, Finished, Program, Runner};
use refresh_system::disk::Owner;
use tempfile::TempDir;

/// A program that records its arguments.
const RECORDER: &str = "#!/bin/sh\nprintf '<%s>' \"$@\"\n";

struct World {
    directory: TempDir,
    script: PathBuf,
}

impl World {
    /// A checkout that contains the script, and a place for an installed program, which is still empty.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let source = fs::read_to_string(original()).unwrap();
        let text = source
            .lines()
            .map(|line| match line.split_once('=') {
                Some(("PLACES", _)) => format!("PLACES='/nonexistent {}'\n", at("bin").display()),
                Some(("ROOT", _)) => format!("ROOT={}\n", Owner::own().uid),
                _ => format!("{line}\n"),
            })
            .collect::<String>();
        assert_ne!(text, source);
        let world = Self { script: at("checkout/scripts/refresh_vm.sh"), directory };
        World::executable(&world.script, &text);
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a program, in a child process: while this process has the file open, a fork in another test would keep it
    /// busy.
    fn executable(path: &Path, text: &str) {
        let write = Program::new("/bin/sh")
            .args(["-c", "umask 022 && mkdir -p \"${1%/*}\" && cat > \"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(path)
            .input(text.as_bytes().to_vec());
        assert!(runner().run(&write).unwrap().succeeded());
    }

    fn with_installed(self) -> Self {
        Self::executable(&self.at("bin/ladylinux-refresh"), RECORDER);
        self
    }

    fn with_cargo(self, build: &str) -> Self {
        let manifest = "[package]\nname = \"ladylinux-refresh\"\n";
        Self::executable(&self.at("checkout/Cargo.toml"), manifest);
        Self::executable(&self.at("cargo/cargo"), &format!("#!/bin/sh\nset -e\n{build}\n"));
        self
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let cargo = format!("{}:/usr/bin:/bin", self.at("cargo").display());
        runner().run(&Program::new(&self.script).args(arguments).env("PATH", cargo)).unwrap()
    }
}

fn original() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/refresh_vm.sh")
}

fn runner() -> Runner {
    Runner::new(Arc::new(Events::silent()))
}

fn printed(finished: &Finished) -> String {
    String::from_utf8_lossy(&finished.stderr).into_owned()
}

fn change_mode(path: &Path, mode: u32) {
    let chmod = Program::new("chmod").arg(format!("{mode:o}")).arg(path);
    assert!(runner().run(&chmod).unwrap().succeeded());
}

#[test]
fn rw_4_1_the_script_is_in_the_repository() {
    assert!(fs::symlink_metadata(original()).unwrap().is_file());
}

#[test]
fn rw_4_2_the_script_is_executable_and_reads_no_input() {
    assert_eq!(fs::metadata(original()).unwrap().permissions().mode() & 0o111, 0o111);
    let world = World::new();
    World::executable(&world.at("bin/ladylinux-refresh"), "#!/bin/sh\ncat\n");
    let program = Program::new(&world.script).input(b"not a word is taken".to_vec());
    assert_eq!(runner().run(&program).unwrap().text(), "not a word is taken");
}

#[test]
fn rw_8_4_arguments_of_the_script_reach_the_program_as_a_command() {
    let world = World::new().with_installed();
    for (typed, passed) in [
        (&[] as &[&str], "<run>"),
        (&["develop"], "<run><develop>"),
        (&["develop", "--dry-run"], "<run><develop><--dry-run>"),
        (&["--dry-run", "--always-rebuild-venv"], "<run><--dry-run><--always-rebuild-venv>"),
        (&["status", "--json"], "<status><--json>"),
        (&["run", "status"], "<run><status>"),
        (&["--root", "/a b", "main"], "<--root=/a b><run><main>"),
        (&["--root=/trial", "rollback"], "<--root=/trial><rollback>"),
        (&["--version"], "<--version>"),
        (&["two words", "*", ""], "<run><two words><*><>"),
    ] {
        let finished = world.run(typed);
        assert_eq!(finished.text(), passed, "{typed:?} {}", printed(&finished));
    }
}

#[test]
fn the_exit_code_is_the_programs_own() {
    let world = World::new();
    World::executable(&world.at("bin/ladylinux-refresh"), "#!/bin/sh\nexit 4\n");
    assert_eq!(world.run(&[]).ended, ChildEnd::Exited(4));
}

#[test]
fn a_program_that_others_can_replace_is_not_started() {
    for writable in ["bin/ladylinux-refresh", "bin"] {
        let world = World::new().with_installed().with_cargo("exit 9");
        change_mode(&world.at(writable), 0o775);
        let finished = world.run(&[]);
        assert_eq!(finished.ended, ChildEnd::Exited(3), "{writable}");
        assert!(printed(&finished).contains("others can write"), "{}", printed(&finished));
        assert!(finished.stdout.is_empty());
    }
}

#[test]
fn a_link_to_a_program_is_as_safe_as_the_place_that_it_leads_to() {
    let world = World::new();
    World::executable(&world.at("elsewhere/program"), RECORDER);
    World::executable(&world.at("bin/unused"), "");
    let link = Program::new("ln").arg("-s").arg(world.at("elsewhere/program"));
    assert!(runner().run(&link.arg(world.at("bin/ladylinux-refresh"))).unwrap().succeeded());
    assert_eq!(world.run(&[]).text(), "<run>");
    change_mode(&world.at("elsewhere"), 0o777);
    assert_eq!(world.run(&[]).ended, ChildEnd::Exited(3));
}

#[test]
fn the_option_no_service_is_refused_if_a_service_is_installed() {
    let world = World::new().with_installed();
    let root = format!("--root={}", world.at("root").display());
    World::executable(&world.at("root/var/lib/ladylinux-refresh/supervisor/state.json"), "{}");
    let finished = world.run(&[&root, "main", "--no-service"]);
    assert_eq!(finished.ended, ChildEnd::Exited(2));
    assert!(printed(&finished).contains("a service is installed"), "{}", printed(&finished));
    assert!(finished.stdout.is_empty());
}

#[test]
fn without_an_installed_program_a_clear_error_is_printed() {
    let finished = World::new().run(&["main"]);
    assert_eq!(finished.ended, ChildEnd::Exited(3));
    assert!(printed(&finished).contains("is not installed"), "{}", printed(&finished));
}

#[test]
fn a_checkout_of_the_callers_own_is_built_and_its_program_started() {
    let build = "mkdir -p target/release && printf '#!/bin/sh\\necho built: \"$@\"\\n' > target/release/ladylinux-refresh
                 chmod 755 target/release/ladylinux-refresh";
    let finished = World::new().with_cargo(build).run(&["main"]);
    assert_eq!(finished.text(), "built: run main\n", "{}", printed(&finished));
}

#[test]
fn a_checkout_in_which_others_can_write_is_not_built() {
    for (writable, mode) in [("checkout", 0o777), ("checkout/Cargo.toml", 0o664), ("cargo", 0o777)] {
        let world = World::new().with_cargo("touch built");
        change_mode(&world.at(writable), mode);
        let finished = world.run(&[]);
        assert_eq!(finished.ended, ChildEnd::Exited(3), "{writable}");
        assert!(!world.at("checkout/built").exists());
    }
}

#[test]
fn the_script_may_be_replaced_while_it_runs() {
    // The build, which the script waits for, overwrites the very file that the shell reads: same inode, other text.
    let build = "yes 'exit 99' | head -c 20000 > scripts/refresh_vm.sh
                 mkdir -p target/release && printf '#!/bin/sh\\necho carried on\\n' > target/release/ladylinux-refresh
                 chmod 755 target/release/ladylinux-refresh";
    let world = World::new().with_cargo(build);
    let before = fs::metadata(&world.script).unwrap().ino();
    let finished = world.run(&[]);
    assert_eq!(finished.text(), "carried on\n", "{}", printed(&finished));
    assert_eq!(fs::metadata(&world.script).unwrap().ino(), before);
    assert!(fs::read_to_string(&world.script).unwrap().starts_with("exit 99"));
}
