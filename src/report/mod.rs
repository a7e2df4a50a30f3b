//! The result of a run.

use serde::{Deserialize, Serialize};

/// All about one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {}
