//! Failures: a sentence, the chain of causes below it, and hints that a person can follow.
//!
//! The crates return a [`Failure`] and do not choose exit codes: the same failed fetch is a refusal while the service
//! runs and a halt after the stop. The caller decides between the two, in `refresh_installation::exit`.

use std::error::Error as StdError;
use std::ffi::OsStr;
use std::fmt;

use serde::{Deserialize, Serialize};
use signal_hook::low_level::signal_name;

use crate::hint::Hint;

/// The result of anything that can fail in a way that must be reported.
pub type Outcome<T> = Result<T, Failure>;

/// A failure: a sentence, its cause, and hints.
#[derive(Debug)]
pub struct Failure {
    summary: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    hints: Vec<Hint>,
    kind: Kind,
}

/// The kind of a failure, beside its sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// This signal ended the work.
    Interrupted(i32),
    /// The sentence is the output of a program.
    Written,
    /// Another program or person did it: the same command can work again.
    ByOthers,
}

/// The text that replaces output that not every user may read.
const IN_THE_LOG: &str = "its output is in the log of the run";

impl Failure {
    /// Makes a failure from one sentence (no capital, no full stop) that names the event.
    pub fn new(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), source: None, hints: Vec::new(), kind: Kind::Plain }
    }

    /// Makes the failure that consists of the output of a program. The output can contain anything, also a password, so
    /// it is not written to places that every user can read.
    pub fn written(lines: &[String], before: &str) -> Self {
        Self { kind: Kind::Written, ..Self::new(format!("{before}{}", lines.join("\n"))) }
    }

    /// Makes the failure of work that was stopped because signal number `signal` arrived.
    pub fn interrupted(signal: i32) -> Self {
        let name = signal_name(signal).unwrap_or("a signal");
        Self { kind: Kind::Interrupted(signal), ..Self::new(format!("interrupted by {name}")) }
    }

    /// Makes the failure that another program or person has caused on purpose. It is no evidence against the deployed
    /// version.
    pub fn by_others(summary: impl Into<String>) -> Self {
        Self { kind: Kind::ByOthers, ..Self::new(summary) }
    }

    /// Adds the cause. A cause is never thrown away.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds a cause below all existing causes.
    #[must_use]
    pub fn rooted_in(self, root: Self) -> Self {
        let source: Box<dyn StdError + Send + Sync> = match self.source {
            None => Box::new(root),
            Some(source) => match source.downcast::<Self>() {
                Ok(nested) => Box::new(nested.rooted_in(root)),
                Err(other) => Box::new(Self::new(other.to_string()).because(root)),
            },
        };
        Self { source: Some(source), ..self }
    }

    /// Adds a hint for a person: a sentence, or a [`Hint`].
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Hint>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds a command to type: `fixed` and further words, which are quoted ([`Hint::command`]).
    #[must_use]
    pub fn command(self, fixed: &'static str, words: &[&dyn AsRef<OsStr>]) -> Self {
        self.hint(Hint::command(fixed, words))
    }

    /// Adds a command to type, and its purpose.
    #[must_use]
    pub fn command_for(self, purpose: &str, fixed: &'static str, words: &[&dyn AsRef<OsStr>]) -> Self {
        self.hint(Hint::command(fixed, words).with_purpose(purpose))
    }

    /// Returns the sentence of the failure, without its causes.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Returns the sentences from the outermost to the root cause.
    pub fn chain(&self) -> Vec<String> {
        self.links().map(ToString::to_string).collect()
    }

    /// Returns the sentences that every user may read: without the output of other programs.
    pub fn open_chain(&self) -> Vec<String> {
        let is_confidential = |link: &(dyn StdError + 'static)| {
            link.downcast_ref::<Self>().is_some_and(|failure| failure.kind == Kind::Written)
        };
        let open = |link| if is_confidential(link) { IN_THE_LOG.to_owned() } else { link.to_string() };
        self.links().map(open).collect()
    }

    fn links(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        std::iter::successors(Some(self as &(dyn StdError + 'static)), |&link| link.source())
    }

    /// Returns the hints, each once, those of the root cause first: the closest to the cause is the most useful.
    pub fn hints(&self) -> Vec<Hint> {
        let mut all = self.nested().map(Self::hints).unwrap_or_default();
        for hint in &self.hints {
            if !all.contains(hint) {
                all.push(hint.clone());
            }
        }
        all
    }

    /// Returns the hints as they are printed, in the same order.
    pub fn hint_texts(&self) -> Vec<String> {
        self.hints().iter().map(Hint::to_string).collect()
    }

    /// Returns the signal that ended the work, if this failure or one of its causes is an interruption.
    pub fn interrupted_by(&self) -> Option<i32> {
        match self.kind {
            Kind::Interrupted(signal) => Some(signal),
            _ => self.nested().and_then(Self::interrupted_by),
        }
    }

    /// Returns whether another program or person has caused this failure ([`Failure::by_others`]).
    pub fn is_by_others(&self) -> bool {
        self.kind == Kind::ByOthers || self.nested().is_some_and(Self::is_by_others)
    }

    /// Returns whether the kernel refused an operation because of missing permissions.
    pub fn is_denied(&self) -> bool {
        self.links().any(|link| {
            let by_io = link
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
            let by_errno = link
                .downcast_ref::<rustix::io::Errno>()
                .is_some_and(|error| matches!(*error, rustix::io::Errno::ACCESS | rustix::io::Errno::PERM));
            by_io || by_errno
        })
    }

    /// Returns the failure as one process sends it to another. An interruption is sent as a plain failure: a signal to
    /// one process is not a signal to the other.
    pub fn message(&self) -> FailureMessage {
        let sentence = |link: &(dyn StdError + 'static)| Sentence {
            text: link.to_string(),
            is_written: link.downcast_ref::<Self>().is_some_and(|failure| failure.kind == Kind::Written),
        };
        FailureMessage { chain: self.links().map(sentence).collect(), hints: self.hints() }
    }

    /// Returns the failure without hints, its own and those of its causes: for a failure that has better ones.
    #[must_use]
    pub fn without_hints(&self) -> Self {
        FailureMessage { hints: Vec::new(), ..self.message() }.into_failure()
    }

    /// The failure that caused this one; readers and writers pass it on inside their own error.
    fn nested(&self) -> Option<&Self> {
        let source = self.source.as_deref()?;
        source.downcast_ref::<Self>().or_else(|| {
            let inner = source.downcast_ref::<std::io::Error>()?.get_ref()?;
            inner.downcast_ref::<Self>()
        })
    }
}

/// A failure that one process of this program sends to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureMessage {
    /// The sentences, the outermost first.
    chain: Vec<Sentence>,
    /// The hints, those of the root cause first.
    hints: Vec<Hint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sentence {
    text: String,
    /// Whether a program wrote it ([`Failure::written`]).
    #[serde(default)]
    is_written: bool,
}

impl FailureMessage {
    /// Returns the failure that was sent.
    pub fn into_failure(self) -> Failure {
        let mut failure: Option<Failure> = None;
        for Sentence { text, is_written } in self.chain.into_iter().rev() {
            let kind = if is_written { Kind::Written } else { Kind::Plain };
            let outer = Failure { kind, ..Failure::new(text) };
            failure = Some(match failure {
                None => self.hints.iter().cloned().fold(outer, Failure::hint),
                Some(cause) => outer.because(cause),
            });
        }
        failure.unwrap_or_else(|| Failure::new("the process reported no cause"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary)
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Adds a sentence to an error of a library: the action that failed.
pub trait Context<T> {
    /// Turns the error into a [`Failure`] whose cause it is.
    ///
    /// # Errors
    /// The same error, with the attempted action.
    fn context(self, summary: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for Result<T, E> {
    fn context(self, summary: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure::new(summary()).because(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_of_several_causes_is_returned_once() {
        let failure = Failure::new("a").because(Failure::new("b").hint("do").hint("then")).hint("do");
        assert_eq!(failure.hint_texts(), ["do", "then"]);
    }

    #[test]
    fn a_failure_caused_by_others_is_recognized_below_other_causes() {
        let failure = Failure::new("a").because(Failure::by_others("b").because(Failure::new("c")));
        assert!(failure.is_by_others() && !Failure::new("a").is_by_others());
    }

    #[test]
    fn a_failure_keeps_every_cause_and_the_closest_hint_first() {
        let root = Failure::new("connection refused").hint("start the server");
        let failure = Failure::new("cannot fetch").because(root).hint("check the network");
        assert_eq!(failure.chain(), ["cannot fetch", "connection refused"]);
        assert_eq!(failure.hints(), ["start the server".into(), "check the network".into()]);
    }

    #[test]
    fn a_root_cause_is_added_below_every_cause() {
        let failure = Failure::new("a").because(Failure::new("b")).rooted_in(Failure::new("c"));
        assert_eq!(failure.chain(), ["a", "b", "c"]);
    }

    #[test]
    fn output_of_a_program_is_in_the_chain_and_not_in_the_open_chain() {
        let written =
            Failure::written(&["password=hunter2".into()], "").rooted_in(Failure::new("no such table"));
        let failure = Failure::new("the hook failed").because(written);
        assert_eq!(failure.chain(), ["the hook failed", "password=hunter2", "no such table"]);
        assert_eq!(failure.open_chain(), ["the hook failed", IN_THE_LOG, "no such table"]);
    }

    #[test]
    fn output_of_a_program_stays_confidential_when_its_failure_comes_from_another_process() {
        let written = Failure::written(&["password=hunter2".into()], "").hint("look at the hook");
        let failure = Failure::new("the hook failed").because(written).hint("run it by hand");
        let sent = serde_json::to_vec(&failure.message()).unwrap();
        let received = serde_json::from_slice::<FailureMessage>(&sent).unwrap().into_failure();
        assert_eq!(received.chain(), failure.chain());
        assert_eq!(received.open_chain(), ["the hook failed", IN_THE_LOG]);
        assert_eq!(received.hints(), failure.hints());
    }

    #[test]
    fn a_wrapped_interruption_is_recognized() {
        let failure = Failure::new("cannot build").because(Failure::interrupted(15));
        assert_eq!(failure.interrupted_by(), Some(15));
        assert_eq!(Failure::new("x").interrupted_by(), None);
    }

    #[test]
    fn a_cause_is_found_inside_the_error_of_a_reader_or_writer() {
        let inner = Failure::interrupted(2);
        let failure = Failure::new("cannot write x").because(std::io::Error::other(inner));
        assert_eq!(failure.interrupted_by(), Some(2));
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert!(Failure::new("cannot read y").because(denied).is_denied());
        assert!(!failure.is_denied());
    }
}
