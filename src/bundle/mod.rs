//! Bundles: one file that refreshes a machine without a network.
//!
//! A bundle contains the commits of a branch, the lock of their environment, uv, and the part of uv's cache for that
//! lock. A run with a bundle fills the stores of its machine from it, and then finds everything there: the mirror, the
//! lock, uv and its cache. The rest of the refresh is the same.
//!
//! The file is read once ([`read`]), every byte compared or digested, into a directory that only root can list; later
//! steps use that copy. So the medium may be removed, and no part of the file is trusted before all of it is verified.
//! This verifies that the file is complete. It does not verify its author: a bundle is trusted like the remote.

mod archive;
mod create;
mod read;

pub use archive::{Header, Member, Platform, SCHEMA};
pub use create::{check_output, create};

use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};

use read::Reader;

use refresh_environments::EnvironmentSpec;
use refresh_events::run_report;
use refresh_git::{Quarantine, Source};
use refresh_installation::installation::{Installation, OfflineSource};
use refresh_installation::status_file;
use refresh_settings::layout::Layout;
use refresh_settings::names::{BranchName, CommitId, RunId};
use refresh_source::work_tree;
use refresh_system::disk;
use refresh_system::disk::Content;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::text::{quoted_path, size};
use refresh_system::{checkpoint, interrupt};

/// Reads a complete bundle and verifies every byte of it.
///
/// # Errors
/// It is not a bundle, or it is truncated, altered, or of another version.
pub fn examine(path: &Path) -> Outcome<(Header, Content)> {
    let (mut reader, header) = Reader::open(path)?;
    header.members.iter().try_for_each(|member| reader.member(member, &mut std::io::sink()))?;
    Ok((header, reader.end()?))
}

/// Removes the unpacked bundle. The holder of the run lock must call this when no part of it is needed any more, and
/// once at the beginning, because a killed command leaves it.
///
/// # Errors
/// It cannot be removed.
pub fn remove_unpacked(layout: &Layout) -> Outcome<()> {
    disk::remove_tree(&directory(layout))
}

fn directory(layout: &Layout) -> PathBuf {
    layout.cache().join("bundle")
}

/// The bundle that a command names.
#[derive(Debug, Clone)]
pub struct BundleOptions {
    /// The file, by an absolute path.
    pub file: PathBuf,
    /// Whether its commit may be older than the deployed one.
    pub allow_older: bool,
    /// Whether its history may have nothing in common with the mirror's.
    pub allow_unrelated: bool,
}

/// The bundle of one command, and the state of its use.
#[derive(Debug)]
pub struct Bundle {
    options: BundleOptions,
    header: OnceCell<Header>,
    opened: OnceCell<Opened>,
    stocked: Cell<bool>,
}

/// A bundle that was verified and unpacked.
#[derive(Debug)]
struct Opened {
    digest: Content,
    commits: Quarantine,
}

impl Bundle {
    /// Returns the bundle of these options; reads nothing.
    pub fn new(options: BundleOptions) -> Self {
        Self { options, header: OnceCell::new(), opened: OnceCell::new(), stocked: Cell::new(false) }
    }

    fn take_in(
        &self,
        on: &Installation,
        wanted: &EnvironmentSpec,
        header: &Header,
        from: &Path,
    ) -> Outcome<()> {
        let context = || format!("the bundle {} cannot be used", self.options.file.display());
        for member in &header.members {
            if let Some(uv) = member.name.strip_prefix(archive::TOOLS) {
                on.site().take_uv(on.interpreter()?, uv, &from.join(&member.name))?;
            }
        }
        checkpoint::reach("bundle:tools taken in");
        if header.definitions != wanted.definitions_digest() {
            let failure = Failure::new("its lock is for other definitions than this host takes")
                .hint("python.definitions in the host's refresh.toml must be the same on both machines");
            return Err(Failure::new(context()).because(failure).hint(CREATE));
        }
        let bytes = disk::read_at_most(&from.join(archive::LOCK), archive::LARGEST_LOCK)?;
        let lock = bytes.ok_or_else(|| Failure::new("the bundle has no lock"))?;
        on.environments().take_in(wanted, &lock, &from.join(archive::CACHE)).context(context)?;
        checkpoint::reach("bundle:stocked");
        Ok(())
    }

    fn header(&self) -> Outcome<&Header> {
        if let Some(known) = self.header.get() {
            return Ok(known);
        }
        let (_, header) = Reader::open(&self.options.file)?;
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
        let shown = self.options.file.display();
        on.runner.events().note(&format!("reading the bundle {shown}"));
        remove_unpacked(&on.layout)?;
        disk::make_directory(&on.layout.cache(), 0o755)?;
        let digest = unpack(&self.options.file, known, directory)?;
        checkpoint::reach("bundle:unpacked");
        let (file, place) = (directory.join(archive::COMMITS), directory.join("commits.git"));
        let context = || format!("the commits of the bundle {shown} cannot be used");
        let commits = on
            .mirror
            .quarantine(&file, &place, &known.branch, &known.commit)
            .map_err(|failure| failure.hint(CREATE))
            .context(context)?;
        self.judge(on, &commits)?;
        on.runner.events().note(&format!(
            "the bundle is complete: {}, sha256 {}",
            size(digest.size),
            digest.sha256
        ));
        Ok(Opened { digest, commits })
    }

    /// Refuses an older commit and an unrelated history, unless the options allow them.
    fn judge(&self, on: &Installation, commits: &Quarantine) -> Outcome<()> {
        let deployed = status_file::read(&on.layout).deployed.map(|pair| pair.commit);
        let head = deployed.or(work_tree::of(on)?.commit);
        if let Some(head) = head.filter(|head| *head != commits.commit)
            && !self.options.allow_older
            && on.mirror.is_before(&commits.commit, &head)?
        {
            return Err(Failure::new(format!(
                "the bundle is older than the deployed version: its commit {} comes before {}",
                commits.commit.short(),
                head.short()
            ))
            .hint("to go back to an earlier refresh of this machine there is also: rollback")
            .hint(self.again(" --allow-older")));
        }
        if !self.options.allow_unrelated && !on.mirror.is_related(commits)? {
            return Err(Failure::new(
                "the bundle is of another repository: its history shares no commit with the mirror",
            )
            .hint("if the repository really has a new history:")
            .hint(self.again(" --allow-unrelated")));
        }
        Ok(())
    }

    /// Returns the command that requests this bundle again.
    fn again(&self, more: &str) -> String {
        format!("ladylinux-refresh run --bundle {}{more}", quoted_path(&self.options.file))
    }
}

impl OfflineSource for Bundle {
    fn branch(&self, on: &Installation, asked: Option<BranchName>) -> Outcome<BranchName> {
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

    fn verify(&self, on: &Installation) -> Outcome<()> {
        self.opened(on).map(drop)
    }

    fn ensure_commit(&self, on: &Installation, run: &RunId, branch: &BranchName) -> Outcome<CommitId> {
        let opened = self.opened(on)?;
        on.mirror.ensure_from(run, branch, Source::Quarantine(&opened.commits))
    }

    fn ensure_environment(&self, on: &Installation, wanted: &EnvironmentSpec) -> Outcome<()> {
        if self.stocked.get() {
            return Ok(());
        }
        self.opened(on)?;
        self.take_in(on, wanted, self.header()?, &directory(&on.layout))?;
        self.stocked.set(true);
        interrupt::shielded(|| remove_unpacked(&on.layout))
    }

    fn report(&self) -> run_report::Bundle {
        let sha256 = self.opened.get().map(|opened| opened.digest.sha256.clone());
        run_report::Bundle { file: self.options.file.clone(), sha256 }
    }
}

/// Returns the offline source that reads the bundle of a command, if it has one.
pub fn offline_source(given: Option<BundleOptions>) -> Option<Box<dyn OfflineSource>> {
    given.map(|given| Box::new(Bundle::new(given)) as Box<dyn OfflineSource>)
}

/// The command that helps if a bundle cannot be used.
const CREATE: &str = "ladylinux-refresh bundle create --output FILE";

/// Unpacks a bundle into a new directory that only root can list, and verifies all of it.
fn unpack(path: &Path, known: &Header, directory: &Path) -> Outcome<Content> {
    let (mut reader, header) = Reader::open(path)?;
    if header != *known {
        return Err(Failure::new(format!("the bundle {} changed meanwhile", path.display())));
    }
    // Other users can open files by their known names; they cannot list the directory.
    disk::make_new_directory(directory, 0o711)?;
    let needed = header.members.iter().fold(0_u64, |sum, member| sum.saturating_add(member.size));
    let found = rustix::fs::statvfs(directory).context(|| format!("cannot read {}", directory.display()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    // The data is kept unpacked there, and once more in the stores.
    if free / 2 < needed {
        let place = directory.display();
        return Err(Failure::new(format!(
            "{place} has only {} free; {} are needed",
            size(free),
            size(needed.saturating_mul(2))
        ))
        .command("df -h", &[&directory]));
    }
    disk::make_new_directory(&directory.join(archive::TOOLS), 0o711)?;
    for member in &header.members {
        // The commits and uv's cache are for the builder, uv is for every user; only root reads the lock.
        let is_for_all = member.name != archive::LOCK;
        let mode = if is_for_all { 0o644 } else { 0o600 };
        let mut file = disk::open_append(&directory.join(&member.name), mode)?;
        reader.member(member, &mut file)?;
    }
    reader.end()
}
