//! `init --repair-layout`: gives the service user back what it cannot remove from its own work tree, or not read there, and
//! moves repositories inside the work tree away.
//!
//! Exactly what a refresh would be refused for, and nothing else: each entry is reached by descriptors from `app/` down,
//! no link is followed, no mount crossed. What cannot be told apart safely is left alone and named.

use std::path::{Path, PathBuf};

use crate::disk::{self, beneath};
use crate::error::{Failure, Outcome};
use crate::git::Git;
use crate::git::inspect::{self, Head, Obstacle, Unremovable};
use crate::git::path::TreePath;
use crate::git::worktree::WorkTree;
use crate::process::Owner;
use crate::report::shell::quoted_path;
use crate::settings::layout::Layout;
use crate::settings::names::RunId;

/// How often what was hidden behind an entry is looked for again: each time one more folder can be looked into.
const ROUNDS: usize = 64;

/// The repair of one work tree.
#[derive(Debug)]
pub struct Repair<'a> {
    layout: &'a Layout,
    tree: WorkTree,
    owner: Owner,
    run: &'a RunId,
}

/// What is to be repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// `app/` itself belongs to root.
    roots: bool,
    /// What its owner cannot remove, or not read.
    stuck: Vec<Unremovable>,
    /// Repositories inside.
    nested: Vec<TreePath>,
}

impl Found {
    /// Tells whether there is nothing to repair.
    pub fn is_nothing(&self) -> bool {
        !self.roots && self.stuck.is_empty() && self.nested.is_empty()
    }

    /// Tells what was found in a sentence.
    pub fn in_words(&self, app: &Path) -> String {
        let mut parts = Vec::new();
        if self.roots {
            parts.push(format!("{} belongs to root", app.display()));
        }
        if let Some(first) = self.stuck.first() {
            let more = match self.stuck.len() {
                1 => String::new(),
                all => format!(" (and {} more)", all - 1),
            };
            parts.push(format!("{}: {}{more}", first.path, first.reason));
        }
        if let Some(first) = self.nested.first() {
            parts.push(format!("there is a second repository inside the work tree ({first})"));
        }
        parts.join("; ")
    }
}

impl<'a> Repair<'a> {
    /// Prepares the repair of the work tree of `layout` for `owner`.
    pub fn at(layout: &'a Layout, git: &Git, owner: Owner, run: &'a RunId) -> Self {
        Self { layout, tree: WorkTree::new(git, layout, owner), owner, run }
    }

    /// Returns whom the application belongs to: on a real machine the service user, below a root whose `app/` is.
    ///
    /// # Errors
    /// There is no such user, or no `app/`.
    pub fn owner_of(layout: &Layout) -> Outcome<Owner> {
        let app = Owner::of(&layout.app())?;
        if layout.is_real() && app.uid == 0 { super::service_user() } else { Ok(app) }
    }

    /// Looks for what is to be repaired, and changes nothing.
    ///
    /// # Errors
    /// The tree cannot be read.
    pub fn look(&self) -> Outcome<Found> {
        let app = self.layout.app();
        let roots = self.owner.uid != 0 && is_roots(&app);
        let mut stuck = self.tree.unremovable()?;
        if roots {
            stuck.retain(|entry| entry.path.as_path() != app);
        }
        // What the owner may not look into hides what is below.
        let nested = self.tree.inspect().map(|state| state.nested).unwrap_or_default();
        Ok(Found { roots, stuck, nested })
    }

    /// Returns what HEAD says, where that can be told.
    pub fn head(&self) -> Option<Head> {
        self.tree.inspect().ok()?.head
    }

    /// Says what [`Self::carry_out`] would do, a line each, to be read behind "would".
    ///
    /// # Errors
    /// The tree cannot be read.
    pub fn plan(&self) -> Outcome<Vec<String>> {
        let found = self.look()?;
        let app = self.layout.app();
        let mut lines = Vec::new();
        if found.roots {
            lines.push(format!("give {} to uid {}", app.display(), self.owner.uid));
        }
        for entry in &found.stuck {
            lines.push(match entry.obstacle {
                Obstacle::Owner => {
                    format!(
                        "give {} to uid {}, and what is hidden in it where that needs it",
                        entry.path, self.owner.uid
                    )
                }
                Obstacle::Other => format!("leave {} alone: {}; {}", entry.path, entry.reason, entry.repair),
            });
        }
        for path in &found.nested {
            let (from, to) = self.places(path);
            lines.push(format!("move {} to {}", from.display(), to.display()));
        }
        Ok(lines)
    }

    /// Repairs, and says what was done, a line each.
    ///
    /// # Errors
    /// Something is mounted in the tree, an entry cannot be given back safely, or a repository cannot be moved. What was
    /// done before stays.
    pub fn carry_out(&self, mut say: impl FnMut(&str)) -> Outcome<()> {
        let app = self.layout.app();
        if let Some(mount) = inspect::mounts_below(&app)?.first() {
            return Err(Failure::new(format!("something is mounted in the work tree: {}", mount.display()))
                .hint(format!("check what it is, then: umount {}", quoted_path(mount))));
        }
        if self.owner.uid != 0 && is_roots(&app) {
            self.give_back(Path::new(""))?;
            say(&format!("gave {} to uid {}", app.display(), self.owner.uid));
        }
        let mut left = Vec::new();
        for _ in 0..ROUNDS {
            left = self.tree.unremovable()?;
            let mut given = 0;
            for entry in left.iter().filter(|entry| entry.obstacle == Obstacle::Owner) {
                let path = entry.path.as_path();
                let below = path.strip_prefix(&app).map_err(|_| {
                    Failure::new(format!("{} does not lie in {}", path.display(), app.display()))
                })?;
                self.give_back(below)?;
                say(&format!("gave {} to uid {}", entry.path, self.owner.uid));
                given += 1;
            }
            if given == 0 {
                break;
            }
        }
        self.move_away(&mut say)?;
        match left.first() {
            None => Ok(()),
            Some(first) => {
                Err(Failure::new(format!("{} still stands in the way: {}", first.path, first.reason))
                    .hint(first.repair.clone()))
            }
        }
    }

    fn give_back(&self, below: &Path) -> Outcome<()> {
        beneath::give(&self.layout.app(), below, self.owner)
    }

    fn move_away(&self, say: &mut impl FnMut(&str)) -> Outcome<()> {
        for path in self.tree.inspect()?.nested {
            let (from, to) = self.places(&path);
            let place = self.layout.moved(self.run);
            if !place.exists() {
                disk::make_folder(&self.layout.moved_all(), 0o755)?;
                disk::make_owned_folder(&place, 0o700, &self.owner)?;
            }
            self.tree.move_aside(&from, &to)?;
            say(&format!("moved {} to {}; nothing in it was changed", from.display(), to.display()));
        }
        Ok(())
    }

    /// Where a repository lies, and where it is moved: beside the work tree, so on the same file system.
    fn places(&self, path: &TreePath) -> (PathBuf, PathBuf) {
        let name = path.as_path().to_string_lossy().replace('/', "-");
        (self.layout.app().join(path.as_path()), self.layout.moved(self.run).join(name))
    }
}

/// Tells whether the work tree itself belongs to root, whose application would then be root's.
pub(super) fn is_roots(path: &Path) -> bool {
    Owner::of(path).is_ok_and(|owner| owner.uid == 0)
}
