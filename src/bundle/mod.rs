//! Bundles: one file that refreshes a machine which has no network at all.
//!
//! A bundle holds the commits of a branch, the lock of their environment, uv, and what uv's cache has of that lock. A run
//! that is given one fills the stores of its machine from it and then finds everything there: the mirror, the lock, uv and
//! its cache. There is no other way through a refresh.
//!
//! The file is read once ([`read`]), every byte compared or digested, into a directory that only root can list; what
//! is used later comes from there. So the medium may vanish, and nothing of it is believed before all of it is proved.
//! This proves that the file is whole. It does not prove who made it: a bundle is trusted as the remote is.

mod blocks;
mod create;
mod header;
mod read;

pub use create::{check_output, create};
pub use header::{Header, Member, Platform, SCHEMA};
pub use read::Whole;

use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};

use crate::checkpoint;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::git::bundle::Quarantine;
use crate::git::mirror::Source;
use crate::installation::Installation;
use crate::process::interrupt;
use crate::python::Wanted;
use crate::report;
use crate::report::screen::size;
use crate::report::shell::quoted_path;
use crate::settings::layout::Layout;
use crate::settings::names::{BranchName, CommitId, RunId};
use crate::status_file;

use read::Reader;

/// Reads a whole bundle and proves every byte of it.
///
/// # Errors
/// It is no bundle, cut, altered, or of another version.
pub fn examine(path: &Path) -> Outcome<(Header, Whole)> {
    let (mut reader, header) = Reader::open(path)?;
    header.members.iter().try_for_each(|member| reader.member(member, &mut std::io::sink()))?;
    Ok((header, reader.end()?))
}

/// Removes what a bundle was unpacked to. To be called by the holder of the run lock when nothing of it is needed any
/// more, and once before, because a command that is killed leaves it.
///
/// # Errors
/// It cannot be removed.
pub fn put_away(layout: &Layout) -> Outcome<()> {
    disk::remove_tree(&directory(layout))
}

fn directory(layout: &Layout) -> PathBuf {
    layout.cache().join("bundle")
}

/// Whether something unusual is what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unusual {
    /// It is a mistake.
    #[default]
    Refused,
    /// It is wanted.
    Wanted,
}

/// The bundle that a command was given.
#[derive(Debug, Clone)]
pub struct Given {
    /// The file, by an absolute path.
    pub file: PathBuf,
    /// A commit that lies before the deployed one.
    pub older: Unusual,
    /// A history that has nothing in common with what is known here.
    pub unrelated: Unusual,
}

/// The bundle of one command, and how far it has been used.
#[derive(Debug)]
pub struct Bundle {
    given: Given,
    header: OnceCell<Header>,
    opened: OnceCell<Opened>,
    stocked: Cell<bool>,
}

/// A bundle that was proved and unpacked.
#[derive(Debug)]
struct Opened {
    whole: Whole,
    directory: PathBuf,
    commits: Quarantine,
}

impl Bundle {
    /// Takes a bundle; nothing is read yet.
    pub fn new(given: Given) -> Self {
        Self { given, header: OnceCell::new(), opened: OnceCell::new(), stocked: Cell::new(false) }
    }

    /// Returns the branch that the bundle brings, which has to be the one that was asked for, if any was. Reads the header
    /// only, and refuses a bundle for another machine.
    ///
    /// # Errors
    /// It is no bundle, or not for this, or brings another branch.
    pub fn branch(&self, on: &Installation, asked: Option<BranchName>) -> Outcome<BranchName> {
        let header = self.header()?;
        header.fit(on.interpreter()?)?;
        match asked {
            Some(asked) if asked != header.branch => {
                Err(Failure::new(format!("the bundle brings branch {}, not {asked}", header.branch))
                    .hint(self.again("")))
            }
            _ => Ok(header.branch.clone()),
        }
    }

    /// Proves everything that can be proved before anything of the installation is touched.
    ///
    /// # Errors
    /// The bundle is refused; nothing of it is left.
    pub fn prove(&self, on: &Installation) -> Outcome<()> {
        self.opened(on).map(drop)
    }

    /// Makes sure that the mirror holds the bundle's commit, holds it for `run`, and returns it.
    ///
    /// # Errors
    /// The bundle is refused, or the mirror cannot be written.
    pub fn ensure_commit(&self, on: &Installation, run: &RunId, branch: &BranchName) -> Outcome<CommitId> {
        let opened = self.opened(on)?;
        on.mirror.ensure_from(run, branch, Source::Quarantine(&opened.commits))
    }

    /// Makes sure that the uv of the bundle is in its place.
    fn ensure_uv(&self, on: &Installation, opened: &Opened) -> Outcome<()> {
        for member in self.header()?.members_below(header::TOOLS) {
            let name = member.name.trim_start_matches(header::TOOLS);
            on.site().take_uv(on.interpreter()?, name, &opened.directory.join(&member.name))?;
        }
        checkpoint::reach("bundle:tools taken in");
        Ok(())
    }

    /// Makes sure that uv, lock and packages of the bundle are in their places, for the environment that its commit wants.
    /// Then nothing of the bundle is needed any more.
    ///
    /// # Errors
    /// The bundle is refused, or its lock is not for what is wanted here.
    pub fn ensure_environment(&self, on: &Installation, wanted: &Wanted) -> Outcome<()> {
        if self.stocked.get() {
            return Ok(());
        }
        let (header, opened) = (self.header()?, self.opened(on)?);
        self.ensure_uv(on, opened)?;
        self.stock(on, wanted, header, opened)?;
        self.stocked.set(true);
        interrupt::shielded(|| put_away(&on.layout))
    }

    fn stock(&self, on: &Installation, wanted: &Wanted, header: &Header, opened: &Opened) -> Outcome<()> {
        let told = || format!("the bundle {} cannot be used", self.given.file.display());
        if header.definitions != wanted.definitions_digest() {
            let failure = Failure::new("its lock is for other definitions than this host takes")
                .hint("python.definitions in the host's refresh.toml has to say the same on both machines");
            return Err(Failure::new(told()).because(failure).hint(CREATE));
        }
        let bytes = disk::read_at_most(&opened.directory.join(header::LOCK), header::LARGEST_LOCK)?;
        let lock = bytes.ok_or_else(|| Failure::new("the lock of the bundle is gone"))?;
        on.environments().take_in(wanted, &lock, &opened.directory.join(header::CACHE)).context(told)?;
        checkpoint::reach("bundle:stocked");
        Ok(())
    }

    /// Tells for a report where the commit came from.
    pub fn told(&self) -> report::Bundle {
        let sha256 = self.opened.get().map(|opened| opened.whole.sha256.clone());
        report::Bundle { file: self.given.file.clone(), sha256 }
    }

    fn header(&self) -> Outcome<&Header> {
        if let Some(known) = self.header.get() {
            return Ok(known);
        }
        let (_, header) = Reader::open(&self.given.file)?;
        Ok(self.header.get_or_init(|| header))
    }

    fn opened(&self, on: &Installation) -> Outcome<&Opened> {
        if let Some(known) = self.opened.get() {
            return Ok(known);
        }
        let opened = self.open(on, &directory(&on.layout))?;
        Ok(self.opened.get_or_init(|| opened))
    }

    fn open(&self, on: &Installation, directory: &Path) -> Outcome<Opened> {
        let known = self.header()?;
        known.fit(on.interpreter()?)?;
        let shown = self.given.file.display();
        on.runner.events().note(&format!("reading the bundle {shown}"));
        put_away(&on.layout)?;
        disk::make_directory(&on.layout.cache(), 0o755)?;
        let whole = unpack(&self.given.file, known, directory)?;
        checkpoint::reach("bundle:unpacked");
        let (file, place) = (directory.join(header::COMMITS), directory.join("commits.git"));
        let told = || format!("the commits of the bundle {shown} cannot be used");
        let commits = on
            .mirror
            .quarantine(&file, &place, &known.branch, &known.commit)
            .map_err(|failure| failure.hint(CREATE))
            .context(told)?;
        self.judge(on, &commits)?;
        on.runner.events().note(&format!(
            "the bundle is whole: {}, sha256 {}",
            size(whole.size),
            whole.sha256
        ));
        Ok(Opened { whole, directory: directory.to_path_buf(), commits })
    }

    /// Refuses a step back, and a foreign history, where neither is wanted.
    fn judge(&self, on: &Installation, commits: &Quarantine) -> Outcome<()> {
        let deployed = status_file::read(&on.layout).deployed.map(|pair| pair.commit);
        let head = deployed.or(on.tree_state()?.commit);
        if let Some(head) = head.filter(|head| *head != commits.commit)
            && self.given.older == Unusual::Refused
            && on.mirror.is_before(&commits.commit, &head)?
        {
            return Err(Failure::new(format!(
                "the bundle is older than what is deployed: its commit {} lies before {}",
                commits.commit.short(),
                head.short()
            ))
            .hint("to go back to an earlier refresh of this machine there is also: rollback")
            .hint(self.again(" --allow-older")));
        }
        if self.given.unrelated == Unusual::Refused && !on.mirror.is_related(commits)? {
            return Err(Failure::new(
                "the bundle is of another repository: its history has nothing in common with what is known here",
            )
            .hint("if the repository was really begun anew, say so")
            .hint(self.again(" --allow-unrelated")));
        }
        Ok(())
    }

    /// The command that asks for this bundle again.
    fn again(&self, more: &str) -> String {
        format!("ladylinux-refresh run --bundle {}{more}", quoted_path(&self.given.file))
    }
}

/// What helps where a bundle cannot.
const CREATE: &str = "ladylinux-refresh bundle create --output FILE";

/// Unpacks a bundle into a new directory that root alone can list, and verifies all of it.
fn unpack(path: &Path, known: &Header, directory: &Path) -> Outcome<Whole> {
    let (mut reader, header) = Reader::open(path)?;
    if header != *known {
        return Err(Failure::new(format!("the bundle {} changed meanwhile", path.display())));
    }
    // Other users open what they know by name; they cannot list the directory.
    disk::make_new_directory(directory, 0o711)?;
    let needed = header.members.iter().fold(0_u64, |sum, member| sum.saturating_add(member.size));
    let found =
        rustix::fs::statvfs(directory).context(|| format!("cannot look at {}", directory.display()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    // It lies there unpacked, and once more in the stores.
    if free / 2 < needed {
        let place = directory.display();
        return Err(Failure::new(format!(
            "{place} has only {} free; {} are needed",
            size(free),
            size(needed.saturating_mul(2))
        ))
        .hint(format!("df -h {}", quoted_path(directory))));
    }
    disk::make_new_directory(&directory.join(header::TOOLS), 0o711)?;
    for member in &header.members {
        // The commits and uv's cache are for the builder, uv is for every user; the lock is read by root alone.
        let is_for_all = member.name != header::LOCK;
        let mode = if is_for_all { 0o644 } else { 0o600 };
        let mut file = disk::open_append(&directory.join(&member.name), mode)?;
        reader.member(member, &mut file)?;
    }
    reader.end()
}
