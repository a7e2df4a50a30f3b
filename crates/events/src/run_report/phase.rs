//! The parts of a run. The module touches nothing.

use serde::{Deserialize, Serialize};

/// The parts of a run, in their order. The six steps are those of the specification; preflight and staging come
/// before the refresh begins.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    strum::Display,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Phase {
    /// Read-only checks.
    Preflight,
    /// Filling the tool's own stores while the service runs.
    Staging,
    /// Step 1 (RW-5.1).
    Stop,
    /// Step 2 (RW-5.2).
    Sync,
    /// Step 3 (RW-5.3).
    Environment,
    /// Step 4 (RW-5.4).
    Prepare,
    /// Step 5 (RW-5.5).
    Restart,
    /// Step 6 (RW-5.6).
    Status,
}

impl Phase {
    /// The six steps of the specification, in its order (RW-5.0).
    pub const STEPS: [Self; 6] =
        [Self::Stop, Self::Sync, Self::Environment, Self::Prepare, Self::Restart, Self::Status];

    /// Returns the number of the step in the specification; `None` before the refresh begins.
    pub fn step(self) -> Option<usize> {
        Self::STEPS.iter().position(|step| *step == self).map(|index| index + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_numbered_as_in_the_specification() {
        assert_eq!(Phase::Staging.step(), None);
        assert_eq!(Phase::Stop.step(), Some(1));
        assert_eq!(Phase::Status.step(), Some(6));
    }
}
