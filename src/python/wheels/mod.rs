//! The wheel store: wheels by sha256, where the service's user cannot write.
//!
//! Every build takes its wheels from here and from nowhere else. What a lock needs and the store lacks is fetched by pip,
//! as the owner, into folders of passage; each wheel is copied out of the owner's reach, and enters the store as a whole
//! folder in one rename, after it was proved and synced. What lies in the store is digested again at every use.

mod bring;
mod choice;
mod fetch;
pub mod name;
mod stock;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use choice::{Choice, Chosen};
pub use name::WheelName;
pub use stock::{Pruned, Pruning, Stock, Stored};

use super::Site;
use super::installer::Job;
use super::interpreter::Interpreter;
use super::lock::{Lock, Wheel, is_digest};
use super::pip::Pip;
use super::record;
use crate::checkpoint;
use crate::clock;
use crate::disk::{self, Content, Moved};
use crate::error::{Context as _, Failure, Outcome};

/// What is not in the store yet bears this in front of its name.
pub(super) const ASIDE: &str = ".new-";

/// What is looked for in place of something that is no digest.
const NOTHING: &str = ".no-digest";

/// The store of one installation.
#[derive(Debug, Clone, Copy)]
pub struct Wheels<'a> {
    site: Site<'a>,
}

impl<'a> Wheels<'a> {
    /// Opens the store.
    pub fn new(site: Site<'a>) -> Self {
        Self { site }
    }

    /// Returns the place of a wheel in the store.
    pub fn path(&self, wheel: &Wheel) -> PathBuf {
        self.folder(&wheel.sha256).join(&wheel.file)
    }

    /// The folder of a wheel in the store. What is no digest, and could lead out of the store, leads to a name that
    /// nothing there ever has.
    fn folder(&self, sha256: &str) -> PathBuf {
        self.site.layout.wheels().join(if is_digest(sha256) { sha256 } else { NOTHING })
    }

    /// Tells whether all wheels of a lock seem to be there. Only looks, and at no content: [`Self::ensure`] proves it.
    pub fn has_all(&self, lock: &Lock) -> bool {
        (lock.packages.is_empty() || !lock.wheels.is_empty())
            && lock.wheels.iter().all(|wheel| {
                std::fs::symlink_metadata(self.path(wheel))
                    .is_ok_and(|found| found.is_file() && found.len() == wheel.size)
            })
    }

    /// Makes sure that all wheels of a lock are there, every byte of them proved now, and notes in the lock which ones
    /// this machine takes. Where nothing is missing or damaged, no network is used.
    ///
    /// # Errors
    /// One cannot be had, or is not what the lock says.
    pub fn ensure(&self, lock: &mut Lock, interpreter: &Interpreter) -> Outcome<()> {
        self.hold_store()?;
        let proved = self.proved(&lock.wheels)?;
        let is_known = lock.packages.is_empty() || !lock.wheels.is_empty();
        if is_known && proved.len() == lock.wheels.len() {
            return Ok(());
        }
        let scratch = self.site.layout.cache().join(format!("wheels-{}", lock.key));
        disk::remove_tree(&scratch)?;
        disk::make_folder(&scratch, 0o755)?;
        let completed = self.complete(lock, proved, interpreter, &scratch);
        let tidied = disk::remove_tree(&scratch);
        lock.wheels = completed.map_err(tell_a_full_disk)?;
        tidied?;
        lock.write(self.site.layout)?;
        checkpoint::reach("python:wheels known");
        Ok(())
    }

    /// Returns the distributions of a lock whose wheels were built from source on this machine, as `name version`.
    pub fn built_here(lock: &Lock) -> Vec<String> {
        let is_published = |wheel: &Wheel| {
            lock.packages.iter().any(|it| it.name == wheel.name && it.digests.contains(&wheel.sha256))
        };
        let built = lock.wheels.iter().filter(|wheel| !is_published(wheel));
        built.map(|wheel| format!("{} {}", wheel.name, wheel.version)).collect()
    }

    /// Makes the store's folder, and sees to it that nobody else can write there. What somebody could have put there
    /// meanwhile is found when it is used.
    fn hold_store(&self) -> Outcome<()> {
        let store = self.site.layout.wheels();
        disk::make_folder(&store, 0o755)?;
        let told = || format!("cannot look at {}", store.display());
        let found = std::fs::metadata(&store).context(told)?;
        let own = crate::process::Owner::own();
        if found.uid() != own.uid || found.mode() & 0o022 != 0 {
            self.warn(&format!("others could write to {}; this is put right", store.display()));
            disk::give(&store, &own)?;
            disk::set_mode(&store, 0o755)?;
        }
        Ok(())
    }

    /// Returns those of the wheels that are what they were when they were taken in; what is damaged is removed.
    fn proved(&self, wheels: &[Wheel]) -> Outcome<Vec<Wheel>> {
        let mut proved = Vec::new();
        for wheel in wheels {
            let path = self.path(wheel);
            if path.symlink_metadata().is_err() {
                self.site.runner.events().note(&format!("{} is not in the wheel store", wheel.file));
                continue;
            }
            match Self::content(&path) {
                Ok(Content { sha256, size }) if sha256 == wheel.sha256 && size == wheel.size => {
                    proved.push(wheel.clone());
                    continue;
                }
                Ok(Content { sha256, size }) => {
                    self.warn(&damaged(wheel, &format!("its sha256 is {sha256}, its size {size} bytes")));
                }
                Err(failure) if failure.interrupted_by().is_some() => return Err(failure),
                Err(failure) => self.warn(&damaged(wheel, &failure.chain().join(": "))),
            }
            disk::remove_tree(&self.folder(&wheel.sha256))?;
        }
        Ok(proved)
    }

    /// Digests a wheel in the store, which lies in a folder that nobody else can write to.
    fn content(path: &Path) -> Outcome<Content> {
        let folder = path.parent().unwrap_or(path);
        let found = std::fs::symlink_metadata(folder).context(|| "its folder is missing".to_owned())?;
        let own = crate::process::Owner::own();
        if !found.is_dir() || found.uid() != own.uid || found.mode() & 0o022 != 0 {
            return Err(Failure::new("others can write to its folder"));
        }
        disk::content_of_own(path)
    }

    fn warn(&self, message: &str) {
        self.site.runner.events().warn(message);
    }

    /// Adds to the wheels that are proved all others that this machine takes of the lock.
    fn complete(
        &self,
        lock: &Lock,
        mut wheels: Vec<Wheel>,
        interpreter: &Interpreter,
        scratch: &Path,
    ) -> Outcome<Vec<Wheel>> {
        let site = self.site;
        let pip = Pip::ensure(site, interpreter)?;
        let until = clock::monotonic() + site.python.deadline;
        let job = Job { site, interpreter, folder: scratch, scratch, until };
        let Chosen { wheels: wanted, sources, tags } = choice::choose(&job, &pip, lock)?;
        let missing = |wishes: Vec<Choice>, wheels: &[Wheel]| -> Vec<Choice> {
            let is_there = |wish: &Choice| wheels.iter().any(|wheel| wheel.name == wish.name);
            wishes.into_iter().filter(|wish| !is_there(wish)).collect()
        };
        let (wanted, mut sources) = (missing(wanted, &wheels), missing(sources, &wheels));
        self.check_sources(&sources)?;
        let mut wishes = Vec::new();
        for wish in wanted {
            match self.adopt(&wish)? {
                Some(wheel) => wheels.push(wheel),
                None => wishes.push(wish),
            }
        }
        let entrance = Entrance { store: *self, tags: &tags };
        if !wishes.is_empty() {
            site.owned_cache(&site.layout.cache().join("pip"))?;
            site.runner.events().note(&format!("fetching {}", in_words(&wishes)));
            let fetched = fetch::fetch(&job, &pip, &wishes)
                .context(|| format!("cannot fetch the wheels of {}", in_words(&wishes)))?;
            checkpoint::reach("python:wheels fetched");
            self.check_sources(&fetched.without)?;
            wishes.retain(|wish| !fetched.without.contains(wish));
            sources.extend(fetched.without);
            wheels.extend(entrance.take_in_all(&fetched.passages, &wishes, Proof::Digest)?);
        }
        if !sources.is_empty() {
            site.owned_cache(&site.layout.cache().join("pip"))?;
            self.warn(&format!("building from source: {}", in_words(&sources)));
            let passage = fetch::build(&job, &pip, &sources)
                .context(|| format!("cannot build {} from source", in_words(&sources)))?;
            wheels.extend(entrance.take_in_all(&[passage], &sources, Proof::Name)?);
        }
        wheels.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
        disk::sync_parent(&site.layout.wheels().join(ASIDE))?;
        checkpoint::reach("python:wheels taken in");
        Ok(wheels)
    }

    /// Refuses what has to be built from source, unless the host allows that.
    fn check_sources(&self, sources: &[Choice]) -> Outcome<()> {
        if sources.is_empty() || self.site.python.allow_source {
            return Ok(());
        }
        let what = format!("there is no wheel of {} for this Python and this machine", in_words(sources));
        Err(Failure::new(what)
            .hint("ask for a version that has one, in the application's requirements")
            .hint("or allow building from source: python.allow_source = true in the host's refresh.toml"))
    }

    /// Finds the wheel in the store, where another lock has brought it there.
    fn adopt(&self, wish: &Choice) -> Outcome<Option<Wheel>> {
        // Of several that would do only the index could tell the best one.
        let ([sha256], true) = (wish.digests.as_slice(), wish.named) else { return Ok(None) };
        let files = record::entries(&self.folder(sha256))?;
        let [file] = files.as_slice() else { return Ok(None) };
        if !WheelName::parse(file).is_some_and(|name| name.is_of(&wish.name, &wish.version)) {
            return Ok(None);
        }
        let (name, version) = (wish.name.clone(), wish.version.clone());
        let mut wheel = Wheel { name, version, file: file.clone(), sha256: sha256.clone(), size: 0 };
        wheel.size = std::fs::symlink_metadata(self.path(&wheel)).map_or(0, |found| found.len());
        Ok(self.proved(&[wheel])?.pop())
    }
}

/// Says in front that the disk is full, where that is what kept a wheel out of the store.
fn tell_a_full_disk(failure: Failure) -> Failure {
    if !failure.chain().iter().any(|line| line.contains("No space left on device")) {
        return failure;
    }
    Failure::new("the wheel store cannot be filled: no space is left on the disk")
        .because(failure)
        .hint("make room; `df -h` and `df -i` show where it is short")
}

fn damaged(wheel: &Wheel, why: &str) -> String {
    format!("{} is damaged in the wheel store ({why}); it is fetched again", wheel.file)
}

/// Names a few of what is wanted.
fn in_words(wishes: &[Choice]) -> String {
    let named: Vec<String> =
        wishes.iter().take(4).map(|wish| format!("{} {}", wish.name, wish.version)).collect();
    match wishes.len() - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// By what a wheel that arrives is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// By its digest, which the lock names.
    Digest,
    /// By its name and version: it was only just built, and its digest is learned.
    Name,
}

/// The way into the store.
struct Entrance<'a> {
    store: Wheels<'a>,
    /// What the interpreter runs.
    tags: &'a [String],
}

impl Entrance<'_> {
    /// Takes in what lies in folders of passage; all that was wished for has to be there, and nothing else.
    fn take_in_all(&self, passages: &[PathBuf], wishes: &[Choice], proof: Proof) -> Outcome<Vec<Wheel>> {
        let mut wheels: Vec<Wheel> = Vec::new();
        for passage in passages {
            for file in record::entries(passage)? {
                let wheel = self.take_in(&passage.join(&file), &file, wishes, proof)?;
                if wheels.iter().any(|known| known.name == wheel.name) {
                    return Err(Failure::new(format!("two wheels of {} were brought", wheel.name)));
                }
                wheels.push(wheel);
            }
        }
        let lacking = wishes.iter().find(|wish| !wheels.iter().any(|wheel| wheel.name == wish.name));
        match lacking {
            None => Ok(wheels),
            Some(wish) => {
                Err(Failure::new(format!("pip brought no wheel of {} {}", wish.name, wish.version)))
            }
        }
    }

    /// Copies one wheel out of the owner's reach, proves it, and lets it into the store.
    fn take_in(&self, from: &Path, file: &str, wishes: &[Choice], proof: Proof) -> Outcome<Wheel> {
        let name = WheelName::parse(file)
            .ok_or_else(|| Failure::new(format!("{file:?} is not the name of a wheel")))?;
        let wish = wishes
            .iter()
            .find(|wish| name.is_of(&wish.name, &wish.version))
            .ok_or_else(|| Failure::new(format!("{file} was not asked for")))?;
        if name.rank(self.tags).is_none() {
            return Err(Failure::new(format!("{file} is a wheel for another Python or another machine")));
        }
        let store = self.store.site.layout.wheels();
        let aside = store.join(format!("{ASIDE}{file}"));
        disk::remove_tree(&aside)?;
        disk::make_folder(&aside, 0o755)?;
        let entered = self.enter(from, &aside, file, wish, proof);
        if entered.is_err() {
            disk::remove_tree(&aside)?;
        }
        entered
    }

    fn enter(&self, from: &Path, aside: &Path, file: &str, wish: &Choice, proof: Proof) -> Outcome<Wheel> {
        let Content { sha256, size } = disk::take_copy(from, &aside.join(file), 0o444, wish.limit)?;
        if proof == Proof::Digest && !wish.digests.contains(&sha256) {
            return Err(Failure::new(format!("{file} is not what the lock says (sha256 {sha256})")));
        }
        disk::sync_parent(&aside.join(file))?;
        checkpoint::reach("python:wheel proved");
        let place = self.store.site.layout.wheels().join(&sha256);
        disk::remove_tree(&place)?;
        if disk::move_new(aside, &place)? == Moved::OtherFileSystem {
            return Err(Failure::new("the wheel store lies on two file systems"));
        }
        let (name, version) = (wish.name.clone(), wish.version.clone());
        Ok(Wheel { name, version, file: file.to_owned(), sha256, size })
    }
}

#[cfg(test)]
mod tests;
