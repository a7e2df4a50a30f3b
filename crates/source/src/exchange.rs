//! Moves the previous entries of `app/` to `previous/<run>` and the prepared tree into `app/`: one rename for each
//! entry.
//!
//! The conductor does this without git. `app/` itself stays: shells, watchers and mounts of other units refer to its
//! inode, owner and labels. The names of the prepared entries are recorded first. An entry of `app/` with one of these
//! names is new if the prepared tree has no entry of that name any more: only the exchange moves it from there. Device
//! and inode numbers are not suitable: overlays and btrfs change them after a boot. So the same loop completes the
//! exchange from every instant at which it may have been killed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::kept_path::KeptPath;
use refresh_git::path::TreePath;
use refresh_installation::installation::Installation;
use refresh_installation::journal::recover;
use refresh_settings::layout::Layout;
use refresh_settings::names::{CommitId, RunId};
use refresh_system::checkpoint;
use refresh_system::disk;
use refresh_system::disk::beneath::{Directory, Obstacle};
use refresh_system::disk::{Owner, mounts};
use refresh_system::error::{Failure, Outcome};
use refresh_system::hint::Hint;
use refresh_system::text::{aside, quoted_path};

use super::carry::{self, Carried};
use super::{hook_record, writers};

/// The version of the record.
const SCHEMA: u32 = 1;

/// The record of an exchange that has begun and is not finished, in the directory of the run.
const BEGUN: &str = "exchange.json";

/// The record of a finished exchange. The comparison of the previous tree reads it.
const FINISHED: &str = "exchanged.json";

/// The number of times that new entries may appear in `app/` while nothing may write there.
const ROUNDS: usize = 10;

/// The task of an exchange; written before the first rename.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeRecord {
    /// The version, 1.
    pub schema: u32,
    /// The commit that is moved in.
    pub commit: CommitId,
    /// The commits that account for files of the old tree: the deployed one, and the targets of interrupted runs.
    pub known: Vec<CommitId>,
    /// The names of the entries of the prepared tree.
    pub prepared: Vec<TreePath>,
    /// The paths of the old tree that move across.
    pub kept: Vec<KeptPath>,
}

/// The tree that an exchange moves in, and the paths that stay.
#[derive(Debug)]
pub struct Plan {
    /// The commit of the prepared tree.
    pub commit: CommitId,
    /// The commits that account for files of the old tree.
    pub known: Vec<CommitId>,
    /// The paths of the old tree that move across.
    pub kept: Vec<KeptPath>,
}

/// An exchange that has begun.
#[derive(Debug)]
pub struct Exchange {
    layout: Layout,
    run: RunId,
    owner: Owner,
    record: ExchangeRecord,
}

impl Exchange {
    /// Records the planned moves. Nothing is moved yet.
    ///
    /// # Errors
    /// The prepared tree is missing, or the record cannot be written.
    pub fn begin(layout: &Layout, run: &RunId, owner: Owner, plan: Plan) -> Outcome<Self> {
        let prepared = directory(layout, &layout.tree(run))?.names()?;
        let prepared = prepared.into_iter().map(|name| PathBuf::from(name).into()).collect();
        let Plan { commit, known, kept } = plan;
        let record = ExchangeRecord { schema: SCHEMA, commit, known, prepared, kept };
        if !layout.previous_tree(run).exists() {
            Self::make_room(layout, run, owner)?;
        }
        // This is the only sync before the first rename: recovery identifies the new entries only by this record.
        disk::write_json(&layout.run(run).join(BEGUN), &record, 0o600)?;
        checkpoint::reach("exchange:begun");
        Ok(Self { layout: layout.clone(), run: run.clone(), owner, record })
    }

    /// Creates the directory of the previous tree, durably: the old entries are moved there.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn make_room(layout: &Layout, run: &RunId, owner: Owner) -> Outcome<()> {
        make_passable(&layout.previous_trees())?;
        disk::make_directory(&layout.previous_tree(run), 0o750)?;
        // The service user reads the tree during the comparison, and cannot add, rename or remove an entry.
        disk::give(&layout.previous_tree(run), &Owner { gid: owner.gid, ..Owner::own() })?;
        disk::sync_parent(&layout.previous_tree(run))
    }

    /// Returns the unfinished exchange of a run.
    ///
    /// # Errors
    /// The record cannot be read.
    pub(crate) fn unfinished(layout: &Layout, run: &RunId, owner: Owner) -> Outcome<Option<Self>> {
        let record: Option<ExchangeRecord> = disk::read_json(&layout.run(run).join(BEGUN))?;
        Ok(record.map(|record| Self { layout: layout.clone(), run: run.clone(), owner, record }))
    }

    /// Moves the old entries out and the prepared ones in. A repetition changes nothing. It is not durable before
    /// [`Self::finish`]: a power cut may undo renames, but each of them completely, and recovery repeats them.
    ///
    /// # Errors
    /// An entry cannot be moved or is lost, or other programs keep writing into `app/`.
    pub(crate) fn swap(&self) -> Outcome<()> {
        let app = self.move_entries()?;
        for name in &self.record.prepared {
            if app.entry(name.as_path().as_os_str())?.is_none() {
                let path = app.shown().join(name.as_path());
                let failure = Failure::new(format!("another program has removed {}", path.display()));
                return Err(writers::named(failure, &self.layout, self.owner));
            }
        }
        Ok(())
    }

    /// Moves entries until `app/` has no old entry and the prepared tree is empty; returns `app/`.
    fn move_entries(&self) -> Outcome<Directory> {
        let app = open_app(&self.layout, self.owner)?;
        let previous = directory(&self.layout, &self.layout.previous_tree(&self.run))?;
        let tree = directory(&self.layout, &self.layout.tree(&self.run)).ok();
        for _ in 0..ROUNDS {
            let waiting: Vec<OsString> = tree.as_ref().map_or_else(|| Ok(Vec::new()), Directory::names)?;
            let mut old = app.names()?;
            old.retain(|name| waiting.contains(name) || !self.is_prepared(name));
            if old.is_empty() && waiting.is_empty() {
                checkpoint::reach("exchange:swapped");
                return Ok(app);
            }
            for name in old {
                let to = free_name(&previous, &name)?;
                app.move_new(&name, &previous, &to)?;
                checkpoint::reach("exchange:out");
            }
            for name in waiting {
                if let Some(tree) = &tree
                    && app.entry(&name)?.is_none()
                {
                    tree.move_new(&name, &app, &name)?;
                    checkpoint::reach("exchange:in");
                }
            }
        }
        let failure = Failure::new(format!("another program keeps writing into {}", app.shown().display()));
        Err(writers::named(failure, &self.layout, self.owner))
    }

    /// Moves preserved and git-ignored paths from the previous tree into the new one. A repetition changes nothing.
    ///
    /// # Errors
    /// A path cannot be moved.
    pub(crate) fn carry(&self) -> Outcome<Carried> {
        let app = open_app(&self.layout, self.owner)?;
        let previous = directory(&self.layout, &self.layout.previous_tree(&self.run))?;
        carry::carry(&previous, &app, &self.record.kept, self.owner)
    }

    /// Ends the exchange: its moves are durable, and the previous tree waits for its comparison.
    ///
    /// # Errors
    /// A sync fails, or the record cannot be renamed.
    pub(crate) fn finish(&self) -> Outcome<()> {
        disk::sync_file_system(&self.layout.app())?;
        let directory = self.layout.run(&self.run);
        checkpoint::reach("exchange:synced");
        hook_record::hand_over(&self.layout, &self.run)?;
        disk::move_over(&directory.join(BEGUN), &directory.join(FINISHED))?;
        disk::sync_parent(&directory.join(FINISHED))?;
        disk::remove_tree(&self.layout.tree(&self.run))
    }

    /// Completes an interrupted exchange, from any instant: afterwards `app/` is the new tree with everything that
    /// moves across. Files that another program has removed from it since then stay missing; the next run replaces the
    /// tree.
    ///
    /// # Errors
    /// The errors of the parts.
    pub(crate) fn complete(&self) -> Outcome<Carried> {
        self.move_entries()?;
        let carried = self.carry()?;
        self.finish()?;
        Ok(carried)
    }

    fn is_prepared(&self, name: &OsStr) -> bool {
        self.record.prepared.iter().any(|known| known.as_path().as_os_str() == name)
    }
}

/// The exchanges of an installation, for recovery.
#[derive(Debug)]
pub struct Exchanges<'a> {
    /// The paths.
    pub layout: &'a Layout,
    /// The owner of `app/`.
    pub owner: Owner,
}

impl<'a> Exchanges<'a> {
    /// Returns the exchanges of an installation, for recovery.
    pub fn of(on: &'a Installation) -> Self {
        Self { layout: &on.layout, owner: on.owner }
    }
}

impl recover::Exchanges for Exchanges<'_> {
    fn is_unfinished(&self, run: &RunId) -> bool {
        self.layout.run(run).join(BEGUN).exists()
    }

    fn complete(&self, run: &RunId) -> Outcome<bool> {
        match Exchange::unfinished(self.layout, run, self.owner)? {
            None => Ok(false),
            Some(exchange) => exchange.complete().map(|_| true),
        }
    }

    fn remove_leftovers(&self) -> Outcome<()> {
        for run in recover::all(&self.layout.trees())? {
            if !recover::Exchanges::is_unfinished(self, &run) {
                disk::remove_tree(&self.layout.tree(&run))?;
            }
        }
        for run in recover::all(&self.layout.previous_trees())? {
            if !recover::Exchanges::is_unfinished(self, &run) {
                disk::remove_if_empty(&self.layout.previous_tree(&run))?;
            }
        }
        Ok(())
    }
}

/// Reads the record of a finished exchange.
///
/// # Errors
/// The record cannot be read.
pub fn finished(layout: &Layout, run: &RunId) -> Outcome<Option<ExchangeRecord>> {
    disk::read_json(&layout.run(run).join(FINISHED))
}

/// Refuses obstacles to a complete exchange: a mount or an immutable entry in `app/`, or a store on another file
/// system.
///
/// # Errors
/// The obstacle.
pub fn check(layout: &Layout) -> Outcome<()> {
    let table = mounts::all()?;
    let mount_of =
        |path: &Path| mounts::of(&table, &path.canonicalize().unwrap_or_else(|_| path.to_path_buf()));
    if mount_of(&layout.app()) != mount_of(&layout.store()) {
        return Err(Failure::new(format!(
            "{} and {} are on different file systems or mounts, so no rename leads from one to the other",
            layout.store().display(),
            layout.app().display()
        ))
        .hint(store_beside_app(layout)));
    }
    let Some(app) = open_existing_app(layout)? else { return Ok(()) };
    // Flags of the directory itself prevent moves of its entries.
    let home = directory(layout, &layout.home())?;
    let itself = layout.app().file_name().map_or(Ok(None), |name| home.entry(name))?;
    let itself = itself.map(|entry| (layout.app(), entry));
    let entries = app.entries()?.into_iter().map(|entry| (app.shown().join(&entry.name), entry));
    for (path, entry) in itself.into_iter().chain(entries) {
        if let Some(obstacle) = entry.obstacle {
            return Err(immovable(&path, obstacle));
        }
    }
    check_home(layout, &home)
}

/// Refuses a border inside of one mount: a lower layer of an overlay, a subvolume, a quota for a project. Nothing moves.
///
/// # Errors
/// A directory of `app/`, or `venv`, cannot be moved to the store, or the prepared tree of `run` cannot be moved to
/// `app/`.
pub fn check_borders(layout: &Layout, run: &RunId) -> Outcome<()> {
    let Some(app) = open_existing_app(layout)? else { return Ok(()) };
    let (home, tree) = (directory(layout, &layout.home())?, directory(layout, &layout.tree(run))?);
    let git = OsStr::new(".git");
    // The service could empty any other directory at this moment, and then it would be replaced.
    let has_git =
        app.enter(Path::new(git)).and_then(|entered| entered.names()).is_ok_and(|it| !it.is_empty());
    let directories = app.entries()?.into_iter().filter(|entry| entry.is_directory).map(|entry| entry.name);
    let directories: Vec<OsString> = directories.collect();
    if directories.iter().any(|name| app.has_border(name, &tree, git))
        || has_git && tree.has_border(git, &app, git)
    {
        return Err(border(layout, &layout.app()));
    }
    let venv = layout.venv().file_name().map_or(Ok(None), |name| home.entry(name))?;
    match venv.filter(|entry| entry.is_directory && home.has_border(&entry.name, &tree, git)) {
        Some(_) => Err(border(layout, &layout.venv())),
        None => Ok(()),
    }
}

/// As [`check_borders`], before the tree of `run` is prepared: a directory is tried in its place, and removed again.
///
/// # Errors
/// The errors of [`check_borders`], or the directory cannot be created or removed.
pub fn try_borders(layout: &Layout, run: &RunId) -> Outcome<()> {
    disk::make_directory(&layout.trees(), 0o700)?;
    disk::make_directory(&layout.tree(run).join(".git/full"), 0o755)?;
    let checked = check_borders(layout, run);
    disk::remove_tree(&layout.tree(run))?;
    checked
}

/// Returns the failure for a directory with a border around it or inside of it.
fn border(layout: &Layout, path: &Path) -> Failure {
    let copy = path.with_extension("copy");
    let [path, copy, aside] = [path, &copy, &aside(path)].map(quoted_path);
    let failure = Failure::new(format!("no rename leads from {path} to {}", layout.store().display()))
        .because(Failure::new(
            "it is in a lower layer of an overlay, a subvolume, or has another project quota",
        ));
    let store = store_beside_app(layout);
    if !disk::same_device(&layout.home(), &layout.store()).unwrap_or(true) {
        // A copy would be inside of the same border.
        return failure.hint(store);
    }
    let command = format!("cp -aT {path} {copy} && mv -T {path} {aside} && mv -T {copy} {path}");
    failure
        .hint(Hint::shell(command).with_purpose("stop the service and replace it by a copy"))
        .hint(format!("if a copy is refused too, {store}"))
}

/// Returns the hint for a border between the store and the directory that contains `app/`.
fn store_beside_app(layout: &Layout) -> String {
    format!("set `store` in {} to a directory beside app/", layout.host_file().display())
}

/// Checks that step 3 can replace `venv` in the directory that has it.
fn check_home(layout: &Layout, home: &Directory) -> Outcome<()> {
    let path = layout.home();
    let above = path.parent().zip(path.file_name());
    let itself =
        above.map_or(Ok(None), |(above, name)| Directory::open(above, Path::new(""))?.entry(name))?;
    let flag = itself.and_then(|entry| entry.obstacle);
    if let Some(flag @ (Obstacle::Immutable | Obstacle::AppendOnly)) = flag {
        return Err(Failure::new(format!("{} cannot be replaced", layout.venv().display()))
            .because(Failure::new(format!("{}: {}", path.display(), flag.reason())))
            .hint(flag.cure(&path)));
    }
    let venv = layout.venv().file_name().map_or(Ok(None), |name| home.entry(name))?;
    match venv.and_then(|entry| entry.obstacle).filter(|obstacle| *obstacle != Obstacle::Owner) {
        Some(obstacle) => Err(immovable(&layout.venv(), obstacle)),
        None => Ok(()),
    }
}

/// Returns the failure for an entry of `app/` that cannot be moved.
pub fn immovable(path: &Path, obstacle: Obstacle) -> Failure {
    Failure::new(format!("{} cannot be moved", TreePath::from(path)))
        .because(Failure::new(obstacle.reason()))
        .hint(obstacle.cure(path))
}

/// Creates a directory of trees that other users can traverse but not list.
pub(super) fn make_passable(directory: &Path) -> Outcome<()> {
    disk::make_directory(directory, 0o711)?;
    disk::set_mode(directory, 0o711)
}

/// Opens a directory of the installation without following a link below its root.
pub(super) fn directory(layout: &Layout, path: &Path) -> Outcome<Directory> {
    Directory::open(layout.root(), path.strip_prefix(layout.root()).unwrap_or(path))
}

/// Opens `app/`; creates it, for its owner, if it is missing. If a hook or the application has removed the owner's
/// rights to it, they are restored: otherwise no run could ever repair that.
fn open_app(layout: &Layout, owner: Owner) -> Outcome<Directory> {
    let app = layout.app();
    let home = directory(layout, &layout.home())?;
    let name = app.strip_prefix(layout.home()).unwrap_or(&app);
    let app = home.enter_or_make(name, 0o755, owner)?;
    app.grant(0o700)?;
    Ok(app)
}

/// Creates `app/` if it is missing: a unit can then get access to it beforehand.
///
/// # Errors
/// It is not a real directory, or cannot be created.
pub(crate) fn ensure_app(layout: &Layout, owner: Owner) -> Outcome<()> {
    open_app(layout, owner).map(drop)
}

/// Opens `app/` if it exists.
fn open_existing_app(layout: &Layout) -> Outcome<Option<Directory>> {
    if layout.app().symlink_metadata().is_err() {
        return Ok(None);
    }
    directory(layout, &layout.app()).map(Some)
}

/// Returns a free name in `previous`: a program may have created an entry again that was moved out before.
fn free_name(previous: &Directory, name: &OsStr) -> Outcome<OsString> {
    let mut free = name.to_os_string();
    for number in 2.. {
        if previous.entry(&free)?.is_none() {
            break;
        }
        let mut bytes = name.as_bytes().to_vec();
        bytes.extend_from_slice(format!(".again-{number}").as_bytes());
        free = OsStr::from_bytes(&bytes).to_os_string();
    }
    Ok(free)
}
