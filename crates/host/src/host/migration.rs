//! Migrates a machine of version 0.1 to the places of this version: state, mirror, environments, units, owners.
//!
//! 0.1 kept its state in `/var/lib/ladylinux/refresh` and its environments in `/opt/ladylinux/venvs`, and made root the
//! owner of the two directories around them. Each step checks itself whether it is needed, so a killed migration
//! continues at the next call. At every instant the unit's drop-in refers to the fence: one rename exchanges the state
//! with a link, and the old name points to the new place until systemd uses the new drop-in. It moves and links entries
//! of directories that belong to root, and reads nothing of the service user.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use refresh_programs::process::Runner;
use refresh_programs::systemd;
use refresh_programs::systemd::Bus;
use refresh_service::supervisor;
use refresh_settings::Service;
use refresh_settings::layout::Layout;
use refresh_settings::users::SERVICE_USER;
use refresh_system::checkpoint;
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::text::aside;

use super::own_files::{self, State};
use super::{trust, user};

/// Entries of a state of 0.1 that are removed, because this version creates them again.
const MADE_AGAIN: [&str; 5] = ["cache", "requests", "scratch", "tools", "wheels"];

/// The places of 0.1.
struct Old {
    state: PathBuf,
    environments: PathBuf,
    moved: PathBuf,
}

impl Old {
    fn of(layout: &Layout) -> Self {
        let home = layout.home();
        Self {
            state: layout.persistent().join("refresh"),
            environments: home.join("venvs"),
            moved: home.join("moved"),
        }
    }
}

/// Returns whether a state of 0.1 exists, or the remains of a killed migration.
///
/// # Errors
/// It cannot be read.
pub fn is_needed(layout: &Layout) -> Outcome<bool> {
    let old = Old::of(layout);
    Ok(is_state(&old.state)? || leads_to(&old.state, &layout.state()))
}

/// Returns the place of the lock that a run of 0.1 holds.
pub fn lock_file(layout: &Layout) -> PathBuf {
    Old::of(layout).state.join("lock")
}

/// Lists the effects of [`carry_out`].
pub fn plan(layout: &Layout) -> Vec<String> {
    let old = Old::of(layout);
    let owners = format!("{} and {}", layout.home().display(), layout.persistent().display());
    vec![
        format!("move the state of version 0.1 from {} to {}", old.state.display(), layout.state().display()),
        format!(
            "move its environments from {} to {}",
            old.environments.display(),
            layout.environments().display()
        ),
        format!("return {owners} to the service user if version 0.1 gave them to root"),
    ]
}

/// Migrates the machine to the places of this version, and reports each step with an effect. The caller holds the run
/// lock.
///
/// # Errors
/// Something cannot be moved; the next call continues from there.
pub fn carry_out(
    layout: &Layout,
    service: &Service,
    runner: &Runner,
    mut report: impl FnMut(&str),
) -> Outcome<()> {
    let old = Old::of(layout);
    let is_on_systemd = layout.is_real() && systemd::is_booted();
    let steps: [&dyn Fn() -> Outcome<Option<String>>; 7] = [
        &|| state(layout, &old),
        &|| inside_the_state(layout),
        &|| mirror(layout),
        &|| environments(layout, &old),
        &|| moved(layout, &old),
        &|| if is_on_systemd { own_files(layout, service, runner) } else { Ok(None) },
        &|| owners(layout),
    ];
    for step in steps {
        if let Some(line) = step()? {
            report(&line);
        }
        checkpoint::reach("migration:step");
    }
    // A supervisor that 0.1 started writes to the old name while it lives.
    if !is_on_systemd && supervisor::is_alive(layout)? {
        return Ok(());
    }
    // This comes last, because it shows that the previous steps are complete.
    if old.state.is_symlink() {
        disk::remove_file_if_there(&old.state)?;
        disk::sync_parent(&old.state)?;
    }
    Ok(())
}

/// Returns whether the directory is a state of 0.1: it belongs to root and has the usual entries. On many machines the
/// service user owns the directory around it, and can create anything there except an entry that belongs to root.
fn is_state(path: &Path) -> Outcome<bool> {
    let context = || format!("cannot read {}", path.display());
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        found => found.context(context)?,
    };
    let is_ours = found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    Ok(found.is_dir() && is_ours && path.join("runs").is_dir() && path.join("lock").is_file())
}

/// Returns whether a link that belongs to root points to `target`.
fn leads_to(link: &Path, target: &Path) -> bool {
    let is_ours = fs::symlink_metadata(link)
        .is_ok_and(|found| found.is_symlink() && found.uid() == rustix::process::geteuid().as_raw());
    is_ours && fs::read_link(link).is_ok_and(|found| found == target)
}

/// Moves the state to its new place by exchanging it with a link to that place.
fn state(layout: &Layout, old: &Old) -> Outcome<Option<String>> {
    if !is_state(&old.state)? {
        return Ok(None);
    }
    let new = layout.state();
    if new.is_dir() && !new.is_symlink() {
        for kept in [layout.runs(), layout.status_file(), layout.fence()] {
            if kept.symlink_metadata().is_ok() {
                return Err(Failure::new(format!(
                    "{} and {} are both states: one of them is of version 0.1",
                    new.display(),
                    old.state.display()
                ))
                .command_for("where the other one counts", "mv", &[&new, &aside(&new)]));
            }
        }
        disk::remove_tree(&new)?;
    }
    swap(&old.state, &new)?;
    if !is_state(&new)? {
        // It was replaced after it was examined.
        disk::exchange(&old.state, &new)?;
        return Err(Failure::new(format!("{} changed during its move", old.state.display())));
    }
    Ok(Some(format!("moved the state of version 0.1 from {} to {}", old.state.display(), new.display())))
}

/// Exchanges the directory `from` with a link at `to` that points to `to`: one rename moves the directory to its new
/// place, and its old name points there.
fn swap(from: &Path, to: &Path) -> Outcome<()> {
    if let Some(directory) = to.parent() {
        disk::make_directory(directory, 0o755)?;
    }
    disk::point_link(to, to)?;
    checkpoint::reach("migration:before the exchange");
    if let Err(failure) = disk::exchange(from, to) {
        disk::remove_file_if_there(to)?;
        let purpose = "both have to lie on one file system; else stop the service and move it";
        return Err(failure.command_for(purpose, "mv", &[&from, &to]));
    }
    checkpoint::reach("migration:exchanged");
    disk::sync_parent(to)?;
    disk::sync_parent(from)
}

/// Renames entries that have a different name in this version, and removes those that are created again.
fn inside_the_state(layout: &Layout) -> Outcome<Option<String>> {
    let (records, new) = (layout.state().join("generations"), layout.environment_records());
    if records.is_dir() {
        if new.is_dir() && !disk::remove_if_empty(&new)? {
            return Err(Failure::new(format!("{} and {} are both there", records.display(), new.display())));
        }
        disk::move_new(&records, &new)?;
        disk::sync_parent(&new)?;
    }
    let mut removed = Vec::new();
    for name in MADE_AGAIN {
        let path = layout.state().join(name);
        if path.symlink_metadata().is_ok() {
            disk::remove_tree(&path)?;
            removed.push(name);
        }
    }
    let line = format!(
        "removed from {} parts that are created again: {}",
        layout.state().display(),
        removed.join(", ")
    );
    Ok((!removed.is_empty()).then_some(line))
}

/// Moves the mirror to the store. If the store is on another file system, the mirror is fetched again.
fn mirror(layout: &Layout) -> Outcome<Option<String>> {
    let (old, new) = (layout.state().join("mirror.git"), layout.mirror());
    if !old.is_dir() {
        return Ok(None);
    }
    disk::make_directory(&layout.store(), 0o755)?;
    if new.is_dir() && !disk::remove_if_empty(&new)? {
        disk::remove_tree(&old)?;
        return Ok(Some(format!("removed {}: {} is in use", old.display(), new.display())));
    }
    if !disk::same_device(&old, &layout.store())? {
        disk::remove_tree(&old)?;
        return Ok(Some(format!(
            "removed {}: the next run fetches it into {}",
            old.display(),
            new.display()
        )));
    }
    disk::move_new(&old, &new)?;
    disk::sync_parent(&new)?;
    Ok(Some(format!("moved the mirror to {}", new.display())))
}

/// Moves the environments to the store. A link stays in the old place: the programs in them contain the old path.
fn environments(layout: &Layout, old: &Old) -> Outcome<Option<String>> {
    let (from, to) = (&old.environments, layout.environments());
    let is_real = fs::symlink_metadata(from)
        .is_ok_and(|found| found.is_dir() && found.uid() == rustix::process::geteuid().as_raw());
    let mut moved = None;
    if is_real {
        disk::make_directory(&layout.store(), 0o755)?;
        if to.is_dir() && !to.is_symlink() && !disk::remove_if_empty(&to)? {
            return Ok(Some(format!("left {}: {} is in use", from.display(), to.display())));
        }
        if !disk::same_device(from, &layout.store())? {
            return Ok(Some(format!(
                "left {} on its file system: the next run builds the environment in {}",
                from.display(),
                to.display()
            )));
        }
        swap(from, &to)?;
        moved = Some(format!("moved the environments from {} to {}", from.display(), to.display()));
    }
    // The link of 0.1 is relative, and contains the old name.
    let link = layout.venv();
    if let Ok(target) = fs::read_link(&link)
        && let Ok(name) = target.strip_prefix("venvs")
        && leads_to(from, &to)
    {
        disk::point_link(&link, &to.join(name))?;
    }
    Ok(moved)
}

/// Moves the files that `init --repair-layout` of 0.1 took out of the working tree.
fn moved(layout: &Layout, old: &Old) -> Outcome<Option<String>> {
    let (from, to) = (&old.moved, layout.moved_all());
    let is_ours = fs::symlink_metadata(from)
        .is_ok_and(|found| found.is_dir() && found.uid() == rustix::process::geteuid().as_raw());
    if !is_ours || to.exists() || !disk::same_device(from, &layout.store())? {
        return Ok(None);
    }
    disk::move_new(from, &to)?;
    Ok(Some(format!("moved {} to {}", from.display(), to.display())))
}

/// Creates the users, and updates units and drop-in for the new places; systemd uses them when this returns.
fn own_files(layout: &Layout, service: &Service, runner: &Runner) -> Outcome<Option<String>> {
    let users = user::create_own_users(runner)?;
    let user = Owner::named(SERVICE_USER)?;
    if let Some(owner) = user {
        disk::make_directory(&layout.volatile(), 0o755)?;
        if !layout.requests().is_dir() {
            disk::make_owned_directory(&layout.requests(), 0o700, &owner)?;
        }
    }
    let mut written = 0;
    for file in own_files::all(layout, service, &trust::program()?) {
        if file.state()? != State::Right {
            file.write()?;
            written += 1;
        }
    }
    if written == 0 && users.is_empty() {
        return Ok(None);
    }
    let bus = Bus::connect()?;
    bus.reload()?;
    // It watches the old place until it is restarted.
    if bus.unit(own_files::REQUESTS)?.active == systemd::unit::ActiveState::Active {
        bus.stop(own_files::REQUESTS, super::units::START)?;
        bus.start(own_files::REQUESTS, super::units::START)?;
    }
    Ok(Some(format!("brought {written} units and other files of this program to the new places")))
}

/// Gives the directories that 0.1 gave to root to the service user: their content belongs to the application again.
fn owners(layout: &Layout) -> Outcome<Option<String>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let owner = Owner::of(&layout.app())?;
    let mut given = Vec::new();
    for directory in [layout.home(), layout.persistent()] {
        let found = fs::symlink_metadata(&directory)
            .context(|| format!("cannot read the owner of {}", directory.display()))?;
        if found.is_dir() && found.uid() == 0 && owner.uid != 0 {
            disk::give(&directory, &owner)?;
            given.push(directory.display().to_string());
        }
    }
    let line = format!("gave {} to uid {}, the owner of the application", given.join(" and "), owner.uid);
    Ok((!given.is_empty()).then_some(line))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests lay out a machine of 0.1")]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::Arc;

    use super::*;
    use refresh_events::event::Events;
    use refresh_settings::layers::{Layers, Overrides};

    /// Returns an installation of 0.1 below a root: a fenced service, an environment in use, an adopted one.
    fn world() -> (tempfile::TempDir, Layout, Old) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path().canonicalize().unwrap());
        let old = Old::of(&layout);
        for directory in
            ["runs/r-1/saved", "mirror.git/refs", "generations", "locks", "tools/uv-1", "requests"]
        {
            fs::create_dir_all(old.state.join(directory)).unwrap();
        }
        for file in
            ["lock", "fence", "status.json", "deployed.env", "mirror.git/HEAD", "generations/a-1.json"]
        {
            fs::write(old.state.join(file), file).unwrap();
        }
        for name in ["a-1", "adopted-1"] {
            fs::create_dir_all(old.environments.join(name).join("bin")).unwrap();
        }
        symlink("venvs/a-1", layout.venv()).unwrap();
        fs::create_dir_all(layout.app()).unwrap();
        (root, layout, old)
    }

    fn migrate(layout: &Layout) -> Outcome<Vec<String>> {
        let runner = Runner::new(Arc::new(Events::silent()));
        let settings = Layers::of_text(layout, "", Overrides::default())?.resolve()?;
        let mut lines = Vec::new();
        carry_out(layout, &settings.service, &runner, |line| lines.push(line.to_owned()))?;
        Ok(lines)
    }

    fn expect_migrated(layout: &Layout, old: &Old) {
        assert!(!is_needed(layout).unwrap());
        for (path, text) in [
            (layout.fence(), "fence"),
            (layout.status_file(), "status.json"),
            (layout.mirror().join("HEAD"), "mirror.git/HEAD"),
            (layout.environment_records().join("a-1.json"), "generations/a-1.json"),
        ] {
            assert_eq!(fs::read_to_string(&path).unwrap(), text, "{}", path.display());
        }
        assert_eq!(fs::read_link(layout.venv()).unwrap(), layout.environments().join("a-1"));
        assert!(layout.environments().join("adopted-1/bin").is_dir());
        // Programs of an old environment contain this path.
        assert!(old.environments.join("a-1/bin").is_dir());
        assert!(layout.runs().join("r-1/saved").is_dir());
        assert!(old.state.symlink_metadata().is_err());
        assert!(!layout.state().join("tools").exists() && !layout.state().join("requests").exists());
    }

    #[test]
    fn a_machine_of_0_1_is_migrated_once() {
        let (_root, layout, old) = world();
        assert!(is_needed(&layout).unwrap());
        let lines = migrate(&layout).unwrap();
        assert!(lines.iter().any(|line| line.starts_with("moved the state of version 0.1")), "{lines:?}");
        expect_migrated(&layout, &old);
        assert_eq!(migrate(&layout).unwrap(), Vec::<String>::new());
        expect_migrated(&layout, &old);
    }

    #[test]
    fn rw_7_1a_a_killed_migration_continues_and_the_old_path_leads_to_the_fence_meanwhile() {
        // Killed before the exchange, after it, and after each of the next steps.
        for killed_after in 0..6 {
            let (_root, layout, old) = world();
            fs::create_dir_all(layout.state().parent().unwrap()).unwrap();
            if killed_after == 0 {
                symlink(layout.state(), layout.state()).unwrap();
            }
            let steps: [&dyn Fn() -> Outcome<Option<String>>; 5] = [
                &|| state(&layout, &old),
                &|| inside_the_state(&layout),
                &|| mirror(&layout),
                &|| environments(&layout, &old),
                &|| moved(&layout, &old),
            ];
            for step in steps.iter().take(killed_after) {
                step().unwrap();
                assert_eq!(fs::read_to_string(old.state.join("fence")).unwrap(), "fence");
            }
            assert!(is_needed(&layout).unwrap(), "killed after step {killed_after}");
            migrate(&layout).unwrap();
            expect_migrated(&layout, &old);
        }
    }

    #[test]
    fn a_state_that_others_created_is_not_migrated() {
        let (_root, layout, old) = world();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&old.state, Some(61_879), None).unwrap();
            assert!(!is_needed(&layout).unwrap());
            std::os::unix::fs::chown(&old.state, Some(0), None).unwrap();
        }
        fs::remove_dir_all(&old.state).unwrap();
        symlink("/etc", &old.state).unwrap();
        assert!(!is_needed(&layout).unwrap());
    }

    #[test]
    fn two_states_are_refused_and_both_are_left() {
        let (_root, layout, old) = world();
        fs::create_dir_all(layout.runs()).unwrap();
        let failure = migrate(&layout).unwrap_err();
        assert!(failure.summary().contains("are both states"), "{failure}");
        assert!(old.state.join("fence").exists() && layout.runs().is_dir());
    }
}
