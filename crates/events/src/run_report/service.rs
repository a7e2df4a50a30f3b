//! The service and the other units in the report of a run. The module touches nothing.

use serde::{Deserialize, Serialize};

/// The service at the end of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Service {
    /// `running`, `stopped` or `unknown`.
    pub state: String,
    /// Its main process.
    pub pid: Option<i32>,
    /// The URL that was probed.
    pub url: Option<String>,
    /// The request of the health check and the answer that it expected, in words.
    #[serde(default)]
    pub check: Option<String>,
    /// Whether the fence stands.
    pub fenced: bool,
    /// The other units of the application.
    #[serde(default)]
    pub others: Vec<OtherUnit>,
}

/// A unit of the application other than the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherUnit {
    /// Its name.
    pub unit: String,
    /// The tie that connects it to the service.
    pub tie: Tie,
    /// Its state at the end of the run.
    pub state: OtherState,
}

/// The tie that connects a unit to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tie {
    /// systemd stops it together with the service.
    StoppedWithIt,
    /// The host names it in `service.also`.
    Also,
    /// Nothing.
    None,
}

/// The state of a unit other than the service at the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OtherState {
    /// It was started again.
    Started,
    /// It is not running.
    Down,
    /// It was not restarted.
    RunsOldVersion,
}
