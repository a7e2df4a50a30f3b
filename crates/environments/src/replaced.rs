//! Checks whether the system has replaced the Python that an environment was built with. Costs a few calls of the kernel
//! as long as nothing indicates that; only then the interpreter is queried. Changes nothing.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use refresh_system::error::Outcome;

use super::interpreter::{self, Interpreter};
use super::recorded_environments::{Environments, RecordedEnvironment};

/// A Python that the system has replaced since an environment was built with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplacedPython {
    /// The interpreter of the build.
    pub built_with: Interpreter,
    /// The interpreter that the next build would use; `None` if there is none, or if it cannot be queried.
    pub now: Option<Interpreter>,
    /// Whether there is none.
    #[serde(skip)]
    pub has_none: bool,
    /// Whether the environment can no longer start its interpreter.
    pub is_lost: bool,
}

impl ReplacedPython {
    /// Returns the change as a sentence.
    pub fn in_words(&self) -> String {
        let named = |python: &Interpreter| format!("{} ({})", python.version, python.path.display());
        let now = match &self.now {
            Some(now) => format!("and this host has {} now", named(now)),
            None if self.has_none => "and this host has no usable Python now".to_owned(),
            None => "which it can no longer start".to_owned(),
        };
        format!("the environment was built with Python {}, {now}", named(&self.built_with))
    }
}

impl Environments<'_> {
    /// Returns how the system has replaced the Python of an environment since its build; `None` if it has not, and for an
    /// adopted directory.
    ///
    /// # Errors
    /// The query was interrupted.
    pub fn replaced_python(&self, environment: &RecordedEnvironment) -> Outcome<Option<ReplacedPython>> {
        let Some(built) = environment.record.built() else { return Ok(None) };
        let built_with = &built.interpreter;
        let is_own = |path: &Path| path.canonicalize().is_ok_and(|real| real == built_with.path);
        let is_lost = environment.lost_interpreter().is_some();
        let wanted = interpreter::program(&self.site.python.interpreter).ok();
        let has_none = wanted.is_none();
        let is_same = is_own(&environment.path.join("bin/python")) && wanted.is_some_and(|it| is_own(&it));
        if !is_lost && is_same && !is_newer(&built_with.path, environment.record.recorded_at) {
            return Ok(None);
        }
        let now = match Interpreter::find(self.site) {
            Ok(now) => Some(now),
            Err(failure) if failure.interrupted_by().is_some() => return Err(failure),
            Err(_) => None,
        };
        let is_replaced = is_lost || now.as_ref().is_some_and(|now| now.identity() != built_with.identity());
        Ok(is_replaced.then(|| ReplacedPython { built_with: built_with.clone(), now, has_none, is_lost }))
    }
}

/// Returns whether a file was put in its place after `time`. A package manager keeps the time of the content, and cannot
/// keep this one.
fn is_newer(path: &Path, time: Timestamp) -> bool {
    path.metadata().is_ok_and(|found| found.ctime() >= time.as_second())
}
