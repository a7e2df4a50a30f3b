//! What went wrong: a sentence, the chain of causes below it, and what a person may do about it.
//!
//! The rooms (git, python, service …) return a [`Failure`] and know nothing of exit codes: the same failed fetch is
//! a refusal while the service runs and a halt after the stop. Which of the two it is, the caller says, in
//! [`crate::exit`].

use std::error::Error as StdError;
use std::fmt;

/// The result of anything that can fail in a way that a person has to be told of.
pub type Outcome<T> = Result<T, Failure>;

/// A failure: what happened, why, and what to try.
#[derive(Debug)]
pub struct Failure {
    summary: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    hints: Vec<String>,
    interrupted: Option<i32>,
}

impl Failure {
    /// Makes a failure from one sentence (no capital, no full stop) that says what happened.
    pub fn new(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), source: None, hints: Vec::new(), interrupted: None }
    }

    /// Makes the failure of work that was given up because signal number `signal` arrived.
    pub fn interrupted(signal: i32) -> Self {
        let name = match signal {
            2 => "SIGINT",
            15 => "SIGTERM",
            _ => "a signal",
        };
        Self { interrupted: Some(signal), ..Self::new(format!("interrupted by {name}")) }
    }

    /// Adds the cause. A cause is never thrown away.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds a cause below all the causes that are there.
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

    /// Adds a command to type or a thing to check.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Returns what happened, without its causes.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Returns the sentences from the outermost to the root cause.
    pub fn chain(&self) -> Vec<String> {
        let mut sentences = vec![self.summary.clone()];
        let mut next = self.source();
        while let Some(error) = next {
            sentences.push(error.to_string());
            next = error.source();
        }
        sentences
    }

    /// Returns the hints, those of the root cause first: the closest to the trouble is the most useful.
    pub fn hints(&self) -> Vec<String> {
        let mut all = self.nested().map(Self::hints).unwrap_or_default();
        all.extend(self.hints.iter().cloned());
        all
    }

    /// Returns the signal that ended the work, where this failure or one of its causes is an interruption.
    pub fn interrupted_by(&self) -> Option<i32> {
        self.interrupted.or_else(|| self.nested().and_then(Self::interrupted_by))
    }

    fn nested(&self) -> Option<&Self> {
        self.source.as_deref().and_then(|source| source.downcast_ref::<Self>())
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

/// Adds the sentence that says what was being done to an error of a library.
pub trait Context<T> {
    /// Turns the error into a [`Failure`] whose cause it is.
    ///
    /// # Errors
    /// The same error, told as what was attempted.
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
    fn a_failure_keeps_every_cause_and_the_closest_hint_first() {
        let root = Failure::new("connection refused").hint("start the server");
        let failure = Failure::new("cannot fetch").because(root).hint("check the network");
        assert_eq!(failure.chain(), ["cannot fetch", "connection refused"]);
        assert_eq!(failure.hints(), ["start the server", "check the network"]);
    }

    #[test]
    fn a_root_goes_below_every_cause() {
        let failure = Failure::new("a").because(Failure::new("b")).rooted_in(Failure::new("c"));
        assert_eq!(failure.chain(), ["a", "b", "c"]);
    }

    #[test]
    fn an_interruption_is_seen_through_its_wrappings() {
        let failure = Failure::new("cannot build").because(Failure::interrupted(15));
        assert_eq!(failure.interrupted_by(), Some(15));
        assert_eq!(Failure::new("x").interrupted_by(), None);
    }
}
